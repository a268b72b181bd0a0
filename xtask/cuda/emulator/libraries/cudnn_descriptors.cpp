// cuDNN: handles and descriptors.
#include <algorithm>
#include <initializer_list>

#include "cudnn_types.h"

namespace {

size_t bytes_of(cudnnDataType_t type) {
    switch (type) {
        case CUDNN_DATA_FLOAT: return 4;
        case CUDNN_DATA_DOUBLE: return 8;
        case CUDNN_DATA_HALF:
        case CUDNN_DATA_BFLOAT16: return 2;
        default: return 0;
    }
}

bool all_positive(const std::vector<int>& values) {
    return std::all_of(values.begin(), values.end(), [](int value) { return value > 0; });
}

// The strides of a packed tensor: channels outermost but for the batch (NCHW) or innermost (NHWC).
std::vector<int> packed_strides(cudnnTensorFormat_t format, const std::vector<int>& dims) {
    std::vector<int> strides(dims.size());
    int stride = 1;
    auto place = [&](size_t dim) { strides[dim] = stride, stride *= dims[dim]; };
    if (format == CUDNN_TENSOR_NHWC) place(1);
    for (size_t dim = dims.size(); dim-- > 2;) place(dim);
    if (format == CUDNN_TENSOR_NCHW) place(1);
    place(0);
    return strides;
}

cudnnStatus_t set(cudnnTensorStruct* descriptor, cudnnDataType_t type, std::vector<int> dims, std::vector<int> strides) {
    if (!descriptor) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
    if (dims.size() < 3 || dims.size() > 8 || !all_positive(dims) || !all_positive(strides)) return CUDNN_STATUS_BAD_PARAM;
    if (!bytes_of(type)) return CUDNN_STATUS_NOT_SUPPORTED;
    descriptor->type = type;
    descriptor->dims = std::move(dims);
    descriptor->strides = std::move(strides);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t set_packed(cudnnTensorStruct* descriptor, cudnnTensorFormat_t format, cudnnDataType_t type, std::vector<int> dims) {
    if (format != CUDNN_TENSOR_NCHW && format != CUDNN_TENSOR_NHWC) return CUDNN_STATUS_NOT_SUPPORTED;
    if (dims.size() < 3) return CUDNN_STATUS_BAD_PARAM;
    auto strides = packed_strides(format, dims);
    return set(descriptor, type, std::move(dims), std::move(strides));
}

cudnnStatus_t set_filter(cudnnFilterDescriptor_t descriptor, cudnnTensorFormat_t format, cudnnDataType_t type, std::vector<int> dims) {
    if (cudnnStatus_t status = set_packed(descriptor, format, type, std::move(dims))) return status;
    descriptor->format = format;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t set_convolution(cudnnConvolutionDescriptor_t descriptor, std::vector<int> padding, std::vector<int> stride,
                              std::vector<int> dilation, cudnnConvolutionMode_t mode, cudnnDataType_t compute_type) {
    if (!descriptor) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
    if (!all_positive(stride) || !all_positive(dilation)) return CUDNN_STATUS_BAD_PARAM;
    if (std::any_of(padding.begin(), padding.end(), [](int p) { return p < 0; })) return CUDNN_STATUS_BAD_PARAM;
    if (!bytes_of(compute_type) || compute_type == CUDNN_DATA_BFLOAT16) return CUDNN_STATUS_BAD_PARAM;
    descriptor->padding = std::move(padding);
    descriptor->stride = std::move(stride);
    descriptor->dilation = std::move(dilation);
    descriptor->mode = mode;
    descriptor->compute_type = compute_type;
    return CUDNN_STATUS_SUCCESS;
}

template <class Descriptor>
cudnnStatus_t create(Descriptor** descriptor) {
    *descriptor = new Descriptor;
    return CUDNN_STATUS_SUCCESS;
}

template <class Descriptor>
cudnnStatus_t destroy(Descriptor* descriptor) {
    delete descriptor;
    return CUDNN_STATUS_SUCCESS;
}

}  // namespace

extern "C" {

size_t cudnnGetVersion() { return 91000; }
size_t cudnnGetCudartVersion() { return 13000; }
cudnnStatus_t cudnnGraphVersionCheck() { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnOpsVersionCheck() { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnCnnVersionCheck() { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnAdvVersionCheck() { return CUDNN_STATUS_SUCCESS; }

const char* cudnnGetErrorString(cudnnStatus_t status) {
    switch (status) {
        case CUDNN_STATUS_SUCCESS: return "CUDNN_STATUS_SUCCESS";
        case CUDNN_STATUS_NOT_INITIALIZED: return "CUDNN_STATUS_NOT_INITIALIZED";
        case CUDNN_STATUS_BAD_PARAM: return "CUDNN_STATUS_BAD_PARAM";
        case CUDNN_STATUS_BAD_PARAM_NULL_POINTER: return "CUDNN_STATUS_BAD_PARAM_NULL_POINTER";
        case CUDNN_STATUS_NOT_SUPPORTED: return "CUDNN_STATUS_NOT_SUPPORTED";
        case CUDNN_STATUS_EXECUTION_FAILED: return "CUDNN_STATUS_EXECUTION_FAILED";
    }
    return "an unknown status of cuDNN";
}

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) { return create(handle); }
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) { return destroy(handle); }
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, CUstream stream) {
    if (!handle) return CUDNN_STATUS_NOT_INITIALIZED;
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, CUstream* stream) {
    if (!handle) return CUDNN_STATUS_NOT_INITIALIZED;
    *stream = handle->stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* descriptor) { return create(descriptor); }
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t descriptor) { return destroy(descriptor); }
cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t descriptor, cudnnTensorFormat_t format, cudnnDataType_t type, int n, int c,
                                         int h, int w) {
    return set_packed(descriptor, format, type, {n, c, h, w});
}
cudnnStatus_t cudnnSetTensor4dDescriptorEx(cudnnTensorDescriptor_t descriptor, cudnnDataType_t type, int n, int c, int h, int w, int n_stride,
                                           int c_stride, int h_stride, int w_stride) {
    return set(descriptor, type, {n, c, h, w}, {n_stride, c_stride, h_stride, w_stride});
}
cudnnStatus_t cudnnSetTensorNdDescriptor(cudnnTensorDescriptor_t descriptor, cudnnDataType_t type, int count, const int* dims,
                                         const int* strides) {
    return set(descriptor, type, {dims, dims + count}, {strides, strides + count});
}
cudnnStatus_t cudnnSetTensorNdDescriptorEx(cudnnTensorDescriptor_t descriptor, cudnnTensorFormat_t format, cudnnDataType_t type, int count,
                                           const int* dims) {
    return set_packed(descriptor, format, type, {dims, dims + count});
}

cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t* descriptor) { return create(descriptor); }
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t descriptor) { return destroy(descriptor); }
cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t descriptor, cudnnDataType_t type, cudnnTensorFormat_t format, int k, int c,
                                         int h, int w) {
    return set_filter(descriptor, format, type, {k, c, h, w});
}
cudnnStatus_t cudnnSetFilterNdDescriptor(cudnnFilterDescriptor_t descriptor, cudnnDataType_t type, cudnnTensorFormat_t format, int count,
                                         const int* dims) {
    return set_filter(descriptor, format, type, {dims, dims + count});
}

cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t* descriptor) { return create(descriptor); }
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t descriptor) { return destroy(descriptor); }
cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t descriptor, int pad_h, int pad_w, int stride_h, int stride_w,
                                              int dilation_h, int dilation_w, cudnnConvolutionMode_t mode, cudnnDataType_t compute_type) {
    return set_convolution(descriptor, {pad_h, pad_w}, {stride_h, stride_w}, {dilation_h, dilation_w}, mode, compute_type);
}
cudnnStatus_t cudnnSetConvolutionNdDescriptor(cudnnConvolutionDescriptor_t descriptor, int count, const int* padding, const int* stride,
                                              const int* dilation, cudnnConvolutionMode_t mode, cudnnDataType_t compute_type) {
    return set_convolution(descriptor, {padding, padding + count}, {stride, stride + count}, {dilation, dilation + count}, mode, compute_type);
}
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t descriptor, cudnnMathType_t type) {
    if (!descriptor) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
    descriptor->math_type = type;
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t descriptor, int groups) {
    if (!descriptor) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
    if (groups < 1) return CUDNN_STATUS_BAD_PARAM;
    descriptor->groups = groups;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreateActivationDescriptor(cudnnActivationDescriptor_t* descriptor) { return create(descriptor); }
cudnnStatus_t cudnnDestroyActivationDescriptor(cudnnActivationDescriptor_t descriptor) { return destroy(descriptor); }
cudnnStatus_t cudnnSetActivationDescriptor(cudnnActivationDescriptor_t descriptor, cudnnActivationMode_t mode, int, double coefficient) {
    if (!descriptor) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
    *descriptor = {mode, coefficient};
    return CUDNN_STATUS_SUCCESS;
}

}  // extern "C"
