// cuDNN: convolutions forward, backward to the data and backward to the filter. All algorithms are the same loops.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "../driver/memory.h"
#include "../driver/stream.h"
#include "convolution.h"
#include "numbers.h"

using namespace emulator;

namespace {

enum class Direction { forward, backward_data, backward_filter };

constexpr int algorithm_count(Direction direction) {
    return direction == Direction::forward ? 8 : direction == Direction::backward_data ? 6 : 7;
}

size_t bytes_of(cudnnDataType_t type) { return type == CUDNN_DATA_DOUBLE ? 8 : type == CUDNN_DATA_FLOAT ? 4 : 2; }

cudnnStatus_t check(const Convolution& c) {
    size_t dims = c.x.dims.size();
    if (dims < 3 || c.y.dims.size() != dims || c.w.dims.size() != dims || c.how.padding.size() != dims - 2) return CUDNN_STATUS_BAD_PARAM;
    if (c.x.type != c.y.type || c.x.type != c.w.type) return CUDNN_STATUS_BAD_PARAM;
    if ((c.x.type == CUDNN_DATA_DOUBLE) != (c.how.compute_type == CUDNN_DATA_DOUBLE)) return CUDNN_STATUS_NOT_SUPPORTED;
    if (c.x.type == CUDNN_DATA_BFLOAT16 && c.how.compute_type != CUDNN_DATA_FLOAT) return CUDNN_STATUS_NOT_SUPPORTED;
    if (c.x.dims[0] != c.y.dims[0] || c.w.dims[0] != c.y.dims[1]) return CUDNN_STATUS_BAD_PARAM;
    if (c.x.dims[1] != c.w.dims[1] * c.how.groups || c.w.dims[0] % c.how.groups) return CUDNN_STATUS_BAD_PARAM;
    for (size_t d = 2; d < dims; ++d) {
        int expected = output_size(c.x.dims[d], c.w.dims[d], c.how.padding[d - 2], c.how.stride[d - 2], c.how.dilation[d - 2]);
        if (expected < 1 || c.y.dims[d] != expected) return CUDNN_STATUS_BAD_PARAM;
    }
    return CUDNN_STATUS_SUCCESS;
}

// As much as an algorithm through a matrix product might ask for; never nothing, so that a forgotten one is found.
size_t workspace_bytes(const Convolution& c, Direction direction, int algorithm) {
    return 512 + 64 * size_t(algorithm) + 128 * size_t(direction) + bytes_of(c.x.type) * c.y.dims[0];
}

// alpha and beta are doubles for tensors of double, else floats.
double scaling(const void* address, cudnnDataType_t type) {
    return type == CUDNN_DATA_DOUBLE ? *static_cast<const double*>(address) : *static_cast<const float*>(address);
}

struct Call {
    Convolution convolution;
    Direction direction;
    double alpha, beta;
    const void *x, *w, *y;  // one of them is written
};

const cudnnTensorStruct& result_of(const Call& call) {
    switch (call.direction) {
        case Direction::forward: return call.convolution.y;
        case Direction::backward_data: return call.convolution.x;
        default: return call.convolution.w;
    }
}

template <class T>
std::vector<double> as_doubles(const void* data, const cudnnTensorStruct& tensor) {
    auto values = static_cast<const T*>(data);
    std::vector<double> doubles(extent(tensor));
    for (size_t i = 0; i < doubles.size(); ++i) doubles[i] = to_double(values[i]);
    return doubles;
}

// sums[i] += values[i] * factor, for arrays with steps
void add_multiple(double* sums, ptrdiff_t sum_step, const double* values, ptrdiff_t value_step, double factor, int count) {
    if (sum_step == 1 && value_step == 1)
        for (int i = 0; i < count; ++i) sums[i] += values[i] * factor;
    else
        for (int i = 0; i < count; ++i) sums[i * sum_step] += values[i * value_step] * factor;
}

// Sums in double, whatever the type.
template <class T>
void compute(const Call& call) {
    const Convolution& c = call.convolution;
    const Runs runs = runs_of(c);
    const auto& result = result_of(call);
    std::vector<double> sums(extent(result));
    void* out;
    if (call.direction == Direction::forward) {
        auto x = as_doubles<T>(call.x, c.x), w = as_doubles<T>(call.w, c.w);
        for_each_run(c, runs, [&](const Run& run) { add_multiple(&sums[run.y], runs.y_step, &x[run.x], runs.x_step, w[run.w], run.count); });
        out = const_cast<void*>(call.y);
    } else if (call.direction == Direction::backward_data) {
        auto y = as_doubles<T>(call.y, c.y), w = as_doubles<T>(call.w, c.w);
        for_each_run(c, runs, [&](const Run& run) { add_multiple(&sums[run.x], runs.x_step, &y[run.y], runs.y_step, w[run.w], run.count); });
        out = const_cast<void*>(call.x);
    } else {
        auto x = as_doubles<T>(call.x, c.x), y = as_doubles<T>(call.y, c.y);
        for_each_run(c, runs, [&](const Run& run) {
            double sum = 0;
            for (int i = 0; i < run.count; ++i) sum += x[run.x + i * runs.x_step] * y[run.y + i * runs.y_step];
            sums[run.w] += sum;
        });
        out = const_cast<void*>(call.w);
    }
    auto written = static_cast<T*>(out);
    for_each_element(result, [&](ptrdiff_t at) {
        double old = call.beta == 0 ? 0 : call.beta * to_double(written[at]);
        written[at] = from_double<T>(call.alpha * sums[at] + old);
    });
}

bool is_in_memory(const char* name, const void* data, const cudnnTensorStruct& tensor) {
    if (data && is_device_range(data, extent(tensor) * bytes_of(tensor.type))) return true;
    std::fprintf(stderr, "CUDA emulator: cuDNN: tensor %s reaches beyond its memory\n", name);
    return false;
}

CUresult run(const Call& call) {
    const Convolution& c = call.convolution;
    if (!is_in_memory("x", call.x, c.x) || !is_in_memory("w", call.w, c.w) || !is_in_memory("y", call.y, c.y)) return CUDA_ERROR_ILLEGAL_ADDRESS;
    switch (c.x.type) {
        case CUDNN_DATA_DOUBLE: compute<double>(call); break;
        case CUDNN_DATA_FLOAT: compute<float>(call); break;
        case CUDNN_DATA_HALF: compute<__half>(call); break;
        case CUDNN_DATA_BFLOAT16: compute<__nv_bfloat16>(call); break;
    }
    return CUDA_SUCCESS;
}

cudnnStatus_t status_of(CUresult result) { return result == CUDA_SUCCESS ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_EXECUTION_FAILED; }

cudnnStatus_t check_workspace(const Convolution& c, Direction direction, int algorithm, void* workspace, size_t bytes) {
    if (algorithm < 0 || algorithm >= algorithm_count(direction)) return CUDNN_STATUS_BAD_PARAM;
    if (!workspace || bytes < workspace_bytes(c, direction, algorithm) || !is_device_range(workspace, bytes)) {
        std::fprintf(stderr, "CUDA emulator: cuDNN: the workspace is smaller than the algorithm asks for, or no memory of the device\n");
        return CUDNN_STATUS_BAD_PARAM;
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t convolve(cudnnHandle_t handle, const Convolution& c, Direction direction, int algorithm, void* workspace, size_t bytes,
                       const void* alpha, const void* beta, const void* x, const void* w, const void* y) {
    if (!handle) return CUDNN_STATUS_NOT_INITIALIZED;
    if (!alpha || !beta || !x || !w || !y) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
    if (cudnnStatus_t status = check(c)) return status;
    if (cudnnStatus_t status = check_workspace(c, direction, algorithm, workspace, bytes)) return status;
    Call call{c, direction, scaling(alpha, c.x.type), scaling(beta, c.x.type), x, w, y};
    return status_of(submit(handle->stream, [call] { return run(call); }));
}

cudnnStatus_t workspace_size(cudnnHandle_t handle, const Convolution& c, Direction direction, int algorithm, size_t* bytes) {
    if (!handle) return CUDNN_STATUS_NOT_INITIALIZED;
    if (cudnnStatus_t status = check(c)) return status;
    if (algorithm < 0 || algorithm >= algorithm_count(direction)) return CUDNN_STATUS_BAD_PARAM;
    *bytes = workspace_bytes(c, direction, algorithm);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t list_algorithms(cudnnHandle_t handle, const Convolution& c, Direction direction, int requested, int* returned,
                              cudnnConvolutionAlgoPerf_t* results) {
    if (!handle) return CUDNN_STATUS_NOT_INITIALIZED;
    if (cudnnStatus_t status = check(c)) return status;
    if (requested < 1) return CUDNN_STATUS_BAD_PARAM;
    *returned = std::min(requested, algorithm_count(direction));
    // The second first, as on a GPU it is mostly that one that wins.
    for (int i = 0; i < *returned; ++i) {
        int algorithm = i == 0 ? 1 : i == 1 ? 0 : i;
        results[i] = {algorithm, CUDNN_STATUS_SUCCESS, 1.0f + i, workspace_bytes(c, direction, algorithm), CUDNN_DETERMINISTIC, c.how.math_type, {}};
    }
    return CUDNN_STATUS_SUCCESS;
}

// y = act(y + alpha2 * z + bias)
template <class T>
void bias_and_activation(const cudnnTensorStruct& shape, T* y, const T* z, double alpha2, const T* bias, int bias_stride,
                         cudnnActivationMode_t activation) {
    for (int n = 0; n < shape.dims[0]; ++n)
        for (int channel = 0; channel < shape.dims[1]; ++channel) {
            cudnnTensorStruct plane{shape.type, {shape.dims.begin() + 2, shape.dims.end()}, {shape.strides.begin() + 2, shape.strides.end()}};
            for_each_element(plane, [&](ptrdiff_t at) {
                at += plane_offset(shape, n, channel);
                double value = to_double(y[at]) + to_double(bias[ptrdiff_t(channel) * bias_stride]);
                if (alpha2 != 0) value += alpha2 * to_double(z[at]);
                if (activation == CUDNN_ACTIVATION_RELU) value = value < 0 ? 0 : value;
                y[at] = from_double<T>(value);
            });
        }
}

Convolution gather(cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w, cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t y) {
    if (!x || !w || !how || !y) return {};  // which check refuses
    return {*x, *y, *w, *how};
}

}  // namespace

extern "C" {

cudnnStatus_t cudnnGetConvolutionNdForwardOutputDim(cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w,
                                                    int count, int* dims) {
    if (!how || !x || !w) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
    if (size_t(count) != x->dims.size() || w->dims.size() != x->dims.size() || how->padding.size() + 2 != x->dims.size())
        return CUDNN_STATUS_BAD_PARAM;
    if (x->dims[1] != w->dims[1] * how->groups) return CUDNN_STATUS_BAD_PARAM;
    dims[0] = x->dims[0];
    dims[1] = w->dims[0];
    for (int d = 2; d < count; ++d) {
        dims[d] = output_size(x->dims[d], w->dims[d], how->padding[d - 2], how->stride[d - 2], how->dilation[d - 2]);
        if (dims[d] < 1) return CUDNN_STATUS_BAD_PARAM;
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolution2dForwardOutputDim(cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w,
                                                    int* n, int* c, int* height, int* width) {
    int dims[4];
    if (cudnnStatus_t status = cudnnGetConvolutionNdForwardOutputDim(how, x, w, 4, dims)) return status;
    *n = dims[0], *c = dims[1], *height = dims[2], *width = dims[3];
    return CUDNN_STATUS_SUCCESS;
}

// Forward.

cudnnStatus_t cudnnGetConvolutionForwardAlgorithmMaxCount(cudnnHandle_t, int* count) {
    *count = algorithm_count(Direction::forward);
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t handle, cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w,
                                                     cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t y, int requested, int* returned,
                                                     cudnnConvolutionAlgoPerf_t* results) {
    return list_algorithms(handle, gather(x, w, how, y), Direction::forward, requested, returned, results);
}
cudnnStatus_t cudnnFindConvolutionForwardAlgorithm(cudnnHandle_t handle, cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w,
                                                   cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t y, int requested, int* returned,
                                                   cudnnConvolutionAlgoPerf_t* results) {
    return list_algorithms(handle, gather(x, w, how, y), Direction::forward, requested, returned, results);
}
cudnnStatus_t cudnnFindConvolutionForwardAlgorithmEx(cudnnHandle_t handle, cudnnTensorDescriptor_t x, const void*, cudnnFilterDescriptor_t w,
                                                     const void*, cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t y, void*,
                                                     int requested, int* returned, cudnnConvolutionAlgoPerf_t* results, void*, size_t) {
    return list_algorithms(handle, gather(x, w, how, y), Direction::forward, requested, returned, results);
}
cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t handle, cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w,
                                                      cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t y, int algorithm, size_t* bytes) {
    return workspace_size(handle, gather(x, w, how, y), Direction::forward, algorithm, bytes);
}
cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t handle, const void* alpha, cudnnTensorDescriptor_t x_shape, const void* x,
                                      cudnnFilterDescriptor_t w_shape, const void* w, cudnnConvolutionDescriptor_t how, int algorithm,
                                      void* workspace, size_t bytes, const void* beta, cudnnTensorDescriptor_t y_shape, void* y) {
    return convolve(handle, gather(x_shape, w_shape, how, y_shape), Direction::forward, algorithm, workspace, bytes, alpha, beta, x, w, y);
}

cudnnStatus_t cudnnConvolutionBiasActivationForward(cudnnHandle_t handle, const void* alpha1, cudnnTensorDescriptor_t x_shape, const void* x,
                                                    cudnnFilterDescriptor_t w_shape, const void* w, cudnnConvolutionDescriptor_t how,
                                                    int algorithm, void* workspace, size_t bytes, const void* alpha2,
                                                    cudnnTensorDescriptor_t z_shape, const void* z, cudnnTensorDescriptor_t bias_shape,
                                                    const void* bias, cudnnActivationDescriptor_t activation, cudnnTensorDescriptor_t y_shape,
                                                    void* y) {
    if (!z_shape || !bias_shape || !activation || !z || !bias || !alpha2) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
    if (activation->mode != CUDNN_ACTIVATION_RELU && activation->mode != CUDNN_ACTIVATION_IDENTITY) return CUDNN_STATUS_NOT_SUPPORTED;
    // As cuDNN documents it: the identity goes with the second algorithm only, z is shaped as y, the bias as its channels.
    if (activation->mode == CUDNN_ACTIVATION_IDENTITY && algorithm != 1) return CUDNN_STATUS_NOT_SUPPORTED;
    if (z_shape->dims != y_shape->dims || z_shape->strides != y_shape->strides) return CUDNN_STATUS_BAD_PARAM;
    if (bias_shape->dims.size() < 2 || bias_shape->dims[1] != y_shape->dims[1] || bias_shape->type != y_shape->type) return CUDNN_STATUS_BAD_PARAM;
    const double zero = 0;  // reads as zero in float, too
    if (cudnnStatus_t status = convolve(handle, gather(x_shape, w_shape, how, y_shape), Direction::forward, algorithm, workspace, bytes, alpha1,
                                        &zero, x, w, y))
        return status;
    cudnnTensorStruct shape = *y_shape;
    double factor = scaling(alpha2, shape.type);
    int bias_stride = bias_shape->strides[1];
    auto mode = activation->mode;
    return status_of(submit(handle->stream, [=] {
        auto finish = [&](auto* typed) {
            using T = std::remove_pointer_t<decltype(typed)>;
            bias_and_activation<T>(shape, typed, static_cast<const T*>(z), factor, static_cast<const T*>(bias), bias_stride, mode);
        };
        switch (shape.type) {
            case CUDNN_DATA_DOUBLE: finish(static_cast<double*>(y)); break;
            case CUDNN_DATA_FLOAT: finish(static_cast<float*>(y)); break;
            case CUDNN_DATA_HALF: finish(static_cast<__half*>(y)); break;
            case CUDNN_DATA_BFLOAT16: finish(static_cast<__nv_bfloat16*>(y)); break;
        }
        return CUDA_SUCCESS;
    }));
}

// Backward to the data.

cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithmMaxCount(cudnnHandle_t, int* count) {
    *count = algorithm_count(Direction::backward_data);
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t handle, cudnnFilterDescriptor_t w, cudnnTensorDescriptor_t dy,
                                                          cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t dx, int requested,
                                                          int* returned, cudnnConvolutionAlgoPerf_t* results) {
    return list_algorithms(handle, gather(dx, w, how, dy), Direction::backward_data, requested, returned, results);
}
cudnnStatus_t cudnnFindConvolutionBackwardDataAlgorithm(cudnnHandle_t handle, cudnnFilterDescriptor_t w, cudnnTensorDescriptor_t dy,
                                                        cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t dx, int requested,
                                                        int* returned, cudnnConvolutionAlgoPerf_t* results) {
    return list_algorithms(handle, gather(dx, w, how, dy), Direction::backward_data, requested, returned, results);
}
cudnnStatus_t cudnnFindConvolutionBackwardDataAlgorithmEx(cudnnHandle_t handle, cudnnFilterDescriptor_t w, const void*,
                                                          cudnnTensorDescriptor_t dy, const void*, cudnnConvolutionDescriptor_t how,
                                                          cudnnTensorDescriptor_t dx, void*, int requested, int* returned,
                                                          cudnnConvolutionAlgoPerf_t* results, void*, size_t) {
    return list_algorithms(handle, gather(dx, w, how, dy), Direction::backward_data, requested, returned, results);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t handle, cudnnFilterDescriptor_t w, cudnnTensorDescriptor_t dy,
                                                           cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t dx, int algorithm,
                                                           size_t* bytes) {
    return workspace_size(handle, gather(dx, w, how, dy), Direction::backward_data, algorithm, bytes);
}
cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t handle, const void* alpha, cudnnFilterDescriptor_t w_shape, const void* w,
                                           cudnnTensorDescriptor_t dy_shape, const void* dy, cudnnConvolutionDescriptor_t how, int algorithm,
                                           void* workspace, size_t bytes, const void* beta, cudnnTensorDescriptor_t dx_shape, void* dx) {
    return convolve(handle, gather(dx_shape, w_shape, how, dy_shape), Direction::backward_data, algorithm, workspace, bytes, alpha, beta, dx, w,
                    dy);
}

// Backward to the filter.

cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithmMaxCount(cudnnHandle_t, int* count) {
    *count = algorithm_count(Direction::backward_filter);
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t handle, cudnnTensorDescriptor_t x, cudnnTensorDescriptor_t dy,
                                                            cudnnConvolutionDescriptor_t how, cudnnFilterDescriptor_t dw, int requested,
                                                            int* returned, cudnnConvolutionAlgoPerf_t* results) {
    return list_algorithms(handle, gather(x, dw, how, dy), Direction::backward_filter, requested, returned, results);
}
cudnnStatus_t cudnnFindConvolutionBackwardFilterAlgorithm(cudnnHandle_t handle, cudnnTensorDescriptor_t x, cudnnTensorDescriptor_t dy,
                                                          cudnnConvolutionDescriptor_t how, cudnnFilterDescriptor_t dw, int requested,
                                                          int* returned, cudnnConvolutionAlgoPerf_t* results) {
    return list_algorithms(handle, gather(x, dw, how, dy), Direction::backward_filter, requested, returned, results);
}
cudnnStatus_t cudnnFindConvolutionBackwardFilterAlgorithmEx(cudnnHandle_t handle, cudnnTensorDescriptor_t x, const void*,
                                                            cudnnTensorDescriptor_t dy, const void*, cudnnConvolutionDescriptor_t how,
                                                            cudnnFilterDescriptor_t dw, void*, int requested, int* returned,
                                                            cudnnConvolutionAlgoPerf_t* results, void*, size_t) {
    return list_algorithms(handle, gather(x, dw, how, dy), Direction::backward_filter, requested, returned, results);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t handle, cudnnTensorDescriptor_t x, cudnnTensorDescriptor_t dy,
                                                             cudnnConvolutionDescriptor_t how, cudnnFilterDescriptor_t dw, int algorithm,
                                                             size_t* bytes) {
    return workspace_size(handle, gather(x, dw, how, dy), Direction::backward_filter, algorithm, bytes);
}
cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t handle, const void* alpha, cudnnTensorDescriptor_t x_shape, const void* x,
                                             cudnnTensorDescriptor_t dy_shape, const void* dy, cudnnConvolutionDescriptor_t how, int algorithm,
                                             void* workspace, size_t bytes, const void* beta, cudnnFilterDescriptor_t dw_shape, void* dw) {
    return convolve(handle, gather(x_shape, dw_shape, how, dy_shape), Direction::backward_filter, algorithm, workspace, bytes, alpha, beta, x,
                    dw, dy);
}

}  // extern "C"
