// The arithmetic of C = alpha * op(A) * op(B) + beta * C, for matrices in columns.
#pragma once
#include <cstddef>
#include <vector>

#include "numbers.h"

namespace emulator {

template <class T>
struct Matrix {
    T* data;
    int rows, columns;
    int leading;  // from one column to the next
    bool transposed;

    T& at(int row, int column) const {
        return transposed ? data[column + size_t(row) * leading] : data[row + size_t(column) * leading];
    }
};

// Sums in Sum, in the order of k. C is not read where beta is 0.
template <class Sum, class In, class Out>
void gemm(Sum alpha, const Matrix<const In>& a, const Matrix<const In>& b, Sum beta, const Matrix<Out>& c) {
    int m = c.rows, n = c.columns, k = a.columns;
    std::vector<Sum> columns_of_a(size_t(m) * k), sums(m);
    for (int p = 0; p < k; ++p)
        for (int i = 0; i < m; ++i) columns_of_a[size_t(p) * m + i] = Sum(to_double(a.at(i, p)));
    for (int j = 0; j < n; ++j) {
        sums.assign(m, 0);
        for (int p = 0; p < k; ++p) {
            Sum factor = Sum(to_double(b.at(p, j)));
            const Sum* column = &columns_of_a[size_t(p) * m];
            for (int i = 0; i < m; ++i) sums[i] += column[i] * factor;
        }
        for (int i = 0; i < m; ++i) {
            Sum result = alpha * sums[i];
            if (beta != 0) result += beta * Sum(to_double(c.at(i, j)));
            c.at(i, j) = from_double<Out>(result);
        }
    }
}

}  // namespace emulator
