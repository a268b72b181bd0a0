#include "convolution.h"

#include <algorithm>

namespace emulator {
namespace {

// Counts `index` up within `dims`, the last dimension fastest. False after the last one.
bool next(std::vector<int>& index, const int* dims) {
    for (size_t d = index.size(); d-- > 0;) {
        if (++index[d] < dims[d]) return true;
        index[d] = 0;
    }
    return false;
}

}  // namespace

Runs runs_of(const Convolution& c) {
    const size_t space = c.x.dims.size() - 2, last = space - 1;
    Runs runs{{}, ptrdiff_t(c.how.stride[last]) * c.x.strides[last + 2], c.y.strides[last + 2]};
    std::vector<int> rows(c.y.dims.begin() + 2, c.y.dims.end());
    rows[last] = 1;
    std::vector<int> at(space), tap(space);  // in y, in w
    do {
        do {
            Run run{0, 0, 0, c.y.dims[last + 2]};
            bool inside = true;
            for (size_t d = 0; d < space; ++d) {
                int filter = c.w.dims[d + 2], size = c.x.dims[d + 2], stride = c.how.stride[d];
                int turned = c.how.mode == CUDNN_CONVOLUTION ? filter - 1 - tap[d] : tap[d];
                int first = at[d], x = first * stride - c.how.padding[d] + tap[d] * c.how.dilation[d];
                if (d == last) {  // the part of the row that meets the filter's element inside of x
                    first = x < 0 ? (-x + stride - 1) / stride : 0;
                    x += first * stride;
                    int end = size > x ? first + (size - x + stride - 1) / stride : first;
                    run.count = std::min(end, run.count) - first;
                    inside = inside && run.count > 0;
                } else {
                    inside = inside && x >= 0 && x < size;
                }
                run.x += ptrdiff_t(x) * c.x.strides[d + 2];
                run.w += ptrdiff_t(turned) * c.w.strides[d + 2];
                run.y += ptrdiff_t(first) * c.y.strides[d + 2];
            }
            if (inside) runs.of_plane.push_back(run);
        } while (next(tap, &c.w.dims[2]));
    } while (next(at, rows.data()));
    return runs;
}

void for_each_element(const cudnnTensorStruct& tensor, const std::function<void(ptrdiff_t)>& visit) {
    std::vector<int> index(tensor.dims.size());
    do {
        ptrdiff_t offset = 0;
        for (size_t d = 0; d < index.size(); ++d) offset += ptrdiff_t(index[d]) * tensor.strides[d];
        visit(offset);
    } while (next(index, tensor.dims.data()));
}

size_t extent(const cudnnTensorStruct& tensor) {
    size_t last = 0;
    for (size_t d = 0; d < tensor.dims.size(); ++d) last += size_t(tensor.dims[d] - 1) * tensor.strides[d];
    return last + 1;
}

}  // namespace emulator
