// Kernels for tests/emulator.cpp: one for each thing that can go right or wrong in a block.
#include <cuda_bf16.h>

template <typename T>
__device__ T block_sum(T value) {
    __shared__ T of_warps[32], total;
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_down_sync(0xffffffff, value, offset);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x == 0) {
        total = 0;
        for (int warp = 0; warp < blockDim.x / 32; ++warp) total += of_warps[warp];
    }
    __syncthreads();
    return total;
}

extern "C" __global__ void sum_of_block(const float* in, float* out) {
    float sum = block_sum(in[blockIdx.x * blockDim.x + threadIdx.x]);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256) sum_bf16(const __nv_bfloat16* in, __nv_bfloat16* out) {
    float sum = block_sum(__bfloat162float(in[threadIdx.x]));
    if (threadIdx.x == 0) *out = __float2bfloat16(sum);
}

extern "C" __global__ void reverse(float* data, int count) {
    extern __shared__ float copy[];
    if (threadIdx.x < count) copy[threadIdx.x] = data[threadIdx.x];
    __syncthreads();
    if (threadIdx.x < count) data[threadIdx.x] = copy[count - 1 - threadIdx.x];
}

// Some threads leave before the barrier, which the rest passes without them.
extern "C" __global__ void early_exit(int* out, int count) {
    if (threadIdx.x >= count) return;
    int here = __syncthreads_count(1);
    out[threadIdx.x] = here;
}

extern "C" __global__ void xor_in_eights(int* out) { out[threadIdx.x] = __shfl_xor_sync(0xffffffff, int(threadIdx.x), 3, 8); }

extern "C" __global__ void vote(unsigned* out) { out[threadIdx.x] = __ballot_sync(0xffffffff, threadIdx.x % 3 == 0); }

extern "C" __global__ void count_up(unsigned* counter, float* sum) {
    atomicAdd(counter, 1u);
    atomicAdd(sum, 0.5f);
}

extern "C" __global__ void add(float* data, float value, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) data[i] += value;
}

extern "C" __global__ void read_unwritten_shared(float* out) {
    __shared__ float nothing[4];
    out[threadIdx.x] = nothing[threadIdx.x];
}

extern "C" __global__ void wait_for_ever() {
    if (threadIdx.x < 16) __syncthreads();
    else __syncwarp(0xffffffff);
}

extern "C" __global__ void overrun(float* data, int count) { data[count] = 1.0f; }
