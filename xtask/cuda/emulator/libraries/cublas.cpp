// cuBLAS: matrix products of f32, f64, f16 and bf16, summed in f32 (f64 for f64).
#include <algorithm>
#include <cstdio>

#include "../driver/memory.h"
#include "../driver/stream.h"
#include "cublas_types.h"
#include "gemm.h"

using namespace emulator;

namespace {

struct Operand {
    const void* data;
    cudaDataType type;
    int leading;
    long long stride;  // from one matrix of the batch to the next
};

struct Product {
    bool transpose_a, transpose_b;
    int m, n, k;
    Operand a, b, c;
    int batch;
};

size_t bytes_of(cudaDataType type) {
    switch (type) {
        case CUDA_R_16F:
        case CUDA_R_16BF: return 2;
        case CUDA_R_32F: return 4;
        case CUDA_R_64F: return 8;
        default: return 0;
    }
}

// Whether all matrices of the batch lie in memory of the device.
bool is_in_memory(const char* name, const Operand& operand, int rows, int columns, int batch) {
    if (rows == 0 || columns == 0 || batch == 0) return true;
    size_t elements = size_t(operand.stride) * (batch - 1) + size_t(operand.leading) * (columns - 1) + rows;
    if (operand.data && is_device_range(operand.data, elements * bytes_of(operand.type))) return true;
    std::fprintf(stderr, "CUDA emulator: cuBLAS: matrix %s (%d x %d, %d times) reaches beyond its memory\n", name, rows, columns, batch);
    return false;
}

template <class Sum, class In, class Out>
void multiply(const Product& p, Sum alpha, Sum beta) {
    for (int i = 0; i < p.batch; ++i) {
        auto a = static_cast<const In*>(p.a.data) + p.a.stride * i;
        auto b = static_cast<const In*>(p.b.data) + p.b.stride * i;
        auto c = static_cast<Out*>(const_cast<void*>(p.c.data)) + p.c.stride * i;
        gemm<Sum, In, Out>(alpha, {a, p.m, p.k, p.a.leading, p.transpose_a}, {b, p.k, p.n, p.b.leading, p.transpose_b}, beta,
                           {c, p.m, p.n, p.c.leading, false});
    }
}

bool run(const Product& p, double alpha, double beta) {
    auto in = p.a.type, out = p.c.type;
    if (in == CUDA_R_32F && out == CUDA_R_32F) multiply<float, float, float>(p, alpha, beta);
    else if (in == CUDA_R_64F && out == CUDA_R_64F) multiply<double, double, double>(p, alpha, beta);
    else if (in == CUDA_R_16F && out == CUDA_R_16F) multiply<float, __half, __half>(p, alpha, beta);
    else if (in == CUDA_R_16F && out == CUDA_R_32F) multiply<float, __half, float>(p, alpha, beta);
    else if (in == CUDA_R_16BF && out == CUDA_R_16BF) multiply<float, __nv_bfloat16, __nv_bfloat16>(p, alpha, beta);
    else if (in == CUDA_R_16BF && out == CUDA_R_32F) multiply<float, __nv_bfloat16, float>(p, alpha, beta);
    else return false;
    return true;
}

double read_scalar(const void* address, cudaDataType type) {
    switch (type) {
        case CUDA_R_64F: return *static_cast<const double*>(address);
        case CUDA_R_16F: return to_double(*static_cast<const __half*>(address));
        default: return *static_cast<const float*>(address);
    }
}

cublasStatus_t check(const Product& p) {
    if (p.m < 0 || p.n < 0 || p.k < 0 || p.batch < 0) return CUBLAS_STATUS_INVALID_VALUE;
    if (p.a.leading < std::max(1, p.transpose_a ? p.k : p.m)) return CUBLAS_STATUS_INVALID_VALUE;
    if (p.b.leading < std::max(1, p.transpose_b ? p.n : p.k)) return CUBLAS_STATUS_INVALID_VALUE;
    if (p.c.leading < std::max(1, p.m)) return CUBLAS_STATUS_INVALID_VALUE;
    if (p.a.type != p.b.type || !bytes_of(p.a.type) || !bytes_of(p.c.type)) return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t submit_product(cublasHandle_t handle, const Product& p, const void* alpha, const void* beta, cudaDataType scalar_type) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (cublasStatus_t status = check(p)) return status;
    if (!alpha || !beta) return CUBLAS_STATUS_INVALID_VALUE;
    bool on_device = handle->pointer_mode == CUBLAS_POINTER_MODE_DEVICE;
    double alpha_now = on_device ? 0 : read_scalar(alpha, scalar_type), beta_now = on_device ? 0 : read_scalar(beta, scalar_type);
    CUresult result = submit(handle->stream, [=]() -> CUresult {
        bool fine = is_in_memory("A", p.a, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k, p.batch) &&
                    is_in_memory("B", p.b, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, p.batch) &&
                    is_in_memory("C", p.c, p.m, p.n, p.batch);
        if (!fine) return CUDA_ERROR_ILLEGAL_ADDRESS;
        double a = on_device ? read_scalar(alpha, scalar_type) : alpha_now, b = on_device ? read_scalar(beta, scalar_type) : beta_now;
        return run(p, a, b) ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
    });
    return result == CUDA_SUCCESS               ? CUBLAS_STATUS_SUCCESS
           : result == CUDA_ERROR_NOT_SUPPORTED ? CUBLAS_STATUS_NOT_SUPPORTED
                                                : CUBLAS_STATUS_EXECUTION_FAILED;
}

// Which type alpha and beta have; CUDA_R_32I where the combination does not exist.
cudaDataType scalar_type_of(cublasComputeType_t compute, cudaDataType in) {
    switch (compute) {
        case CUBLAS_COMPUTE_64F:
        case CUBLAS_COMPUTE_64F_PEDANTIC: return in == CUDA_R_64F ? CUDA_R_64F : CUDA_R_32I;
        case CUBLAS_COMPUTE_16F:
        case CUBLAS_COMPUTE_16F_PEDANTIC: return in == CUDA_R_16F ? CUDA_R_16F : CUDA_R_32I;
        default: return in == CUDA_R_64F ? CUDA_R_32I : CUDA_R_32F;
    }
}

template <class T>
cublasStatus_t gemv(cublasHandle_t handle, cublasOperation_t op, int m, int n, const T* alpha, const T* a, int lda, const T* x, int incx,
                    const T* beta, T* y, int incy) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (m < 0 || n < 0 || lda < std::max(1, m) || incx == 0 || incy == 0) return CUBLAS_STATUS_INVALID_VALUE;
    if (incx < 0 || incy < 0 || handle->pointer_mode != CUBLAS_POINTER_MODE_HOST) return CUBLAS_STATUS_NOT_SUPPORTED;
    T alpha_now = *alpha, beta_now = *beta;
    CUresult result = submit(handle->stream, [=]() -> CUresult {
        int rows = op == CUBLAS_OP_N ? m : n, columns = op == CUBLAS_OP_N ? n : m;
        for (int i = 0; i < rows; ++i) {
            T sum = 0;
            for (int j = 0; j < columns; ++j) sum += (op == CUBLAS_OP_N ? a[i + size_t(j) * lda] : a[j + size_t(i) * lda]) * x[size_t(j) * incx];
            T& out = y[size_t(i) * incy];
            out = alpha_now * sum + (beta_now == 0 ? 0 : beta_now * out);
        }
        return CUDA_SUCCESS;
    });
    return result == CUDA_SUCCESS ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // namespace

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
    *handle = new cublasContext;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int* version) {
    *version = 130000;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, CUstream stream) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetStream_v2(cublasHandle_t handle, CUstream* stream) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    *stream = handle->stream;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t bytes) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    return !workspace || is_device_range(workspace, bytes) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->math_mode = mode;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t* mode) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    *mode = handle->math_mode;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetAtomicsMode(cublasHandle_t handle, int) { return handle ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED; }
cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->pointer_mode = mode;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t* mode) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    *mode = handle->pointer_mode;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                                          const void* alpha, const void* a, cudaDataType type_a, int lda, long long stride_a, const void* b,
                                          cudaDataType type_b, int ldb, long long stride_b, const void* beta, void* c, cudaDataType type_c,
                                          int ldc, long long stride_c, int batch, cublasComputeType_t compute, cublasGemmAlgo_t) {
    cudaDataType scalar = scalar_type_of(compute, type_a);
    if (scalar == CUDA_R_32I) return CUBLAS_STATUS_NOT_SUPPORTED;
    Product product{op_a != CUBLAS_OP_N, op_b != CUBLAS_OP_N, m, n, k, {a, type_a, lda, stride_a}, {b, type_b, ldb, stride_b},
                    {c, type_c, ldc, stride_c}, batch};
    return submit_product(handle, product, alpha, beta, scalar);
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const void* alpha,
                            const void* a, cudaDataType type_a, int lda, const void* b, cudaDataType type_b, int ldb, const void* beta,
                            void* c, cudaDataType type_c, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
    return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, 0, b, type_b, ldb, 0, beta, c, type_c, ldc, 0, 1,
                                      compute, algorithm);
}

cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                                         const float* alpha, const float* a, int lda, long long stride_a, const float* b, int ldb,
                                         long long stride_b, const float* beta, float* c, int ldc, long long stride_c, int batch) {
    return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, CUDA_R_32F, lda, stride_a, b, CUDA_R_32F, ldb, stride_b, beta, c,
                                      CUDA_R_32F, ldc, stride_c, batch, CUBLAS_COMPUTE_32F, 0);
}
cublasStatus_t cublasDgemmStridedBatched(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                                         const double* alpha, const double* a, int lda, long long stride_a, const double* b, int ldb,
                                         long long stride_b, const double* beta, double* c, int ldc, long long stride_c, int batch) {
    return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, CUDA_R_64F, lda, stride_a, b, CUDA_R_64F, ldb, stride_b, beta, c,
                                      CUDA_R_64F, ldc, stride_c, batch, CUBLAS_COMPUTE_64F, 0);
}
cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const float* alpha,
                              const float* a, int lda, const float* b, int ldb, const float* beta, float* c, int ldc) {
    return cublasSgemmStridedBatched(handle, op_a, op_b, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1);
}
cublasStatus_t cublasDgemm_v2(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const double* alpha,
                              const double* a, int lda, const double* b, int ldb, const double* beta, double* c, int ldc) {
    return cublasDgemmStridedBatched(handle, op_a, op_b, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1);
}

cublasStatus_t cublasSgemv_v2(cublasHandle_t handle, cublasOperation_t op, int m, int n, const float* alpha, const float* a, int lda,
                              const float* x, int incx, const float* beta, float* y, int incy) {
    return gemv(handle, op, m, n, alpha, a, lda, x, incx, beta, y, incy);
}
cublasStatus_t cublasDgemv_v2(cublasHandle_t handle, cublasOperation_t op, int m, int n, const double* alpha, const double* a, int lda,
                              const double* x, int incx, const double* beta, double* y, int incy) {
    return gemv(handle, op, m, n, alpha, a, lda, x, incx, beta, y, incy);
}

}  // extern "C"
