// The arithmetic of convolutions of any number of space dimensions, layout, stride, dilation and groups.
#pragma once
#include <cstddef>
#include <functional>
#include <vector>

#include "cudnn_types.h"

namespace emulator {

// Copies of the descriptors, which may be gone when a graph comes to the work.
struct Convolution {
    cudnnTensorStruct x, y;
    cudnnFilterStruct w;
    cudnnConvolutionStruct how;
};

// The size of the output in one space dimension.
inline int output_size(int input, int filter, int padding, int stride, int dilation) {
    return (input + 2 * padding - (dilation * (filter - 1) + 1)) / stride + 1;
}

// The offset of an element of a tensor, but for its space dimensions.
inline ptrdiff_t plane_offset(const cudnnTensorStruct& t, int n, int c) {
    return ptrdiff_t(n) * t.strides[0] + ptrdiff_t(c) * t.strides[1];
}

// Elements of the three planes that meet, along the last space dimension: `count` times, x and y going on by a step
// each, with one element of the filter. Offsets within a plane.
struct Run {
    ptrdiff_t x, w, y;
    int count;
};

struct Runs {
    std::vector<Run> of_plane;
    ptrdiff_t x_step, y_step;
};

Runs runs_of(const Convolution& convolution);

// Calls visit(run) for all runs of the convolution, with offsets in the whole tensors.
template <class Visit>
void for_each_run(const Convolution& c, const Runs& runs, Visit visit) {
    const int per_group_in = c.w.dims[1], per_group_out = c.w.dims[0] / c.how.groups;
    for (int n = 0; n < c.x.dims[0]; ++n)
        for (int out = 0; out < c.w.dims[0]; ++out)
            for (int in = 0; in < per_group_in; ++in) {
                ptrdiff_t x = plane_offset(c.x, n, out / per_group_out * per_group_in + in);
                ptrdiff_t w = plane_offset(c.w, out, in), y = plane_offset(c.y, n, out);
                for (const Run& run : runs.of_plane) visit(Run{x + run.x, w + run.w, y + run.y, run.count});
            }
}

// Calls visit(offset) for every element of the tensor, in the order of the dimensions.
void for_each_element(const cudnnTensorStruct& tensor, const std::function<void(ptrdiff_t)>& visit);

// How many elements lie between the first and the last of the tensor, both counted.
size_t extent(const cudnnTensorStruct& tensor);

}  // namespace emulator
