#include "convolution.h"

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

std::vector<Meeting> meetings(const Convolution& c) {
    const size_t space = c.x.dims.size() - 2;
    std::vector<Meeting> all;
    std::vector<int> at(space), tap(space);  // in y, in w
    do {
        do {
            Meeting meeting{0, 0, 0};
            bool inside = true;
            for (size_t d = 0; d < space; ++d) {
                int filter = c.w.dims[d + 2];
                int turned = c.how.mode == CUDNN_CONVOLUTION ? filter - 1 - tap[d] : tap[d];
                int x = at[d] * c.how.stride[d] - c.how.padding[d] + tap[d] * c.how.dilation[d];
                inside = inside && x >= 0 && x < c.x.dims[d + 2];
                meeting.x += ptrdiff_t(x) * c.x.strides[d + 2];
                meeting.w += ptrdiff_t(turned) * c.w.strides[d + 2];
                meeting.y += ptrdiff_t(at[d]) * c.y.strides[d + 2];
            }
            if (inside) all.push_back(meeting);
        } while (next(tap, &c.w.dims[2]));
    } while (next(at, &c.y.dims[2]));
    return all;
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
