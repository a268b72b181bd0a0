// cuMem…: allocation, copies, fills, pools.
#include <cuda.h>

#include <cstdint>
#include <cstring>

#include "../runtime/options.h"
#include "context.h"
#include "lock.h"
#include "memory.h"
#include "stream.h"

using namespace emulator;

struct CUmemPoolHandle_st {
    int device;
    cuuint64_t release_threshold;
};

namespace {

void* pointer(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

CUresult allocate_now(CUdeviceptr* address, size_t bytes, MemoryKind kind) {
    if (!current_context()) return CUDA_ERROR_INVALID_CONTEXT;
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult result = check_no_capture_here()) return result;
    return allocate(current_context()->device, bytes, kind, reinterpret_cast<void**>(address));
}

CUresult release_now(void* address, const char* caller) {
    if (!address) return CUDA_SUCCESS;
    if (CUresult result = check_no_capture_here()) return result;
    if (!release_graph_memory(address)) release(address, caller);
    return CUDA_SUCCESS;
}

// A copy whose ranges on the device must lie within one allocation each.
CUresult copy_on_stream(void* to, bool to_device, const void* from, bool from_device, size_t bytes, CUstream stream) {
    bool pageable = (!to_device && is_pageable_host(to)) || (!from_device && is_pageable_host(from));
    if (pageable && bytes > 0)
        if (CUresult result = refuse_in_capture(stream)) return result;
    return submit(stream, [=]() -> CUresult {
        if (to_device && !is_device_range(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
        if (from_device && !is_device_range(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
        std::memmove(to, from, bytes);
        return CUDA_SUCCESS;
    });
}

CUresult copy_now(void* to, bool to_device, const void* from, bool from_device, size_t bytes) {
    if (!current_context()) return CUDA_ERROR_INVALID_CONTEXT;
    if (CUresult result = check_no_capture_here()) return result;
    return copy_on_stream(to, to_device, from, from_device, bytes, nullptr);
}

template <class T>
CUresult fill_on_stream(CUdeviceptr address, T value, size_t count, CUstream stream) {
    if (address % sizeof(T)) return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, [=]() -> CUresult {
        if (!is_device_range(pointer(address), count * sizeof(T))) return CUDA_ERROR_INVALID_VALUE;
        auto begin = static_cast<T*>(pointer(address));
        for (size_t i = 0; i < count; ++i) begin[i] = value;
        return CUDA_SUCCESS;
    });
}

CUmemPoolHandle_st* default_pool(int device) {
    static CUmemPoolHandle_st pools[64];
    pools[device].device = device;
    return &pools[device];
}

}  // namespace

extern "C" {

CUresult CUDAAPI cuMemAlloc(CUdeviceptr* address, size_t bytes) { return allocate_now(address, bytes, MemoryKind::device); }
CUresult CUDAAPI cuMemAllocManaged(CUdeviceptr* address, size_t bytes, unsigned) { return allocate_now(address, bytes, MemoryKind::managed); }
CUresult CUDAAPI cuMemFree(CUdeviceptr address) { return release_now(pointer(address), "cuMemFree"); }

CUresult CUDAAPI cuMemHostAlloc(void** address, size_t bytes, unsigned) {
    return allocate_now(reinterpret_cast<CUdeviceptr*>(address), bytes, MemoryKind::pinned_host);
}
CUresult CUDAAPI cuMemAllocHost(void** address, size_t bytes) { return cuMemHostAlloc(address, bytes, 0); }
CUresult CUDAAPI cuMemFreeHost(void* address) { return release_now(address, "cuMemFreeHost"); }

CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr* device_address, void* address, unsigned) {
    if (is_pageable_host(address)) return CUDA_ERROR_INVALID_VALUE;
    *device_address = reinterpret_cast<CUdeviceptr>(address);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream stream) {
    Locked locked;
    if (!current_context()) return CUDA_ERROR_INVALID_CONTEXT;
    *address = 0;
    if (bytes == 0) return CUDA_SUCCESS;
    auto memory = reinterpret_cast<void**>(address);
    int device = current_context()->device;
    if (capture_of(stream)) return allocate_in_graph(stream, device, bytes, memory);
    return allocate(device, bytes, MemoryKind::device, memory);
}

CUresult CUDAAPI cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
    Locked locked;
    if (address == 0) return CUDA_SUCCESS;
    if (capture_of(stream)) return free_in_graph(stream, pointer(address));
    if (!release_graph_memory(pointer(address))) release(pointer(address), "cuMemFreeAsync");
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemGetInfo(size_t* free, size_t* total) {
    if (!current_context()) return CUDA_ERROR_INVALID_CONTEXT;
    *free = free_memory(current_context()->device);
    *total = options().memory;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) { return copy_now(pointer(to), true, from, false, bytes); }
CUresult CUDAAPI cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) { return copy_now(to, false, pointer(from), true, bytes); }
CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) { return copy_now(pointer(to), true, pointer(from), true, bytes); }
CUresult CUDAAPI cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return copy_now(pointer(to), !is_pageable_host(pointer(to)), pointer(from), !is_pageable_host(pointer(from)), bytes);
}

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    return copy_on_stream(pointer(to), true, from, false, bytes, stream);
}
CUresult CUDAAPI cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return copy_on_stream(to, false, pointer(from), true, bytes, stream);
}
CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return copy_on_stream(pointer(to), true, pointer(from), true, bytes, stream);
}
CUresult CUDAAPI cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream stream) {
    return copy_on_stream(pointer(to), true, pointer(from), true, bytes, stream);
}

CUresult CUDAAPI cuMemsetD8(CUdeviceptr address, unsigned char value, size_t count) {
    if (CUresult result = check_no_capture_here()) return result;
    return fill_on_stream(address, value, count, nullptr);
}
CUresult CUDAAPI cuMemsetD16(CUdeviceptr address, unsigned short value, size_t count) {
    if (CUresult result = check_no_capture_here()) return result;
    return fill_on_stream(address, value, count, nullptr);
}
CUresult CUDAAPI cuMemsetD32(CUdeviceptr address, unsigned value, size_t count) {
    if (CUresult result = check_no_capture_here()) return result;
    return fill_on_stream(address, value, count, nullptr);
}
CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr address, unsigned char value, size_t count, CUstream stream) {
    return fill_on_stream(address, value, count, stream);
}
CUresult CUDAAPI cuMemsetD16Async(CUdeviceptr address, unsigned short value, size_t count, CUstream stream) {
    return fill_on_stream(address, value, count, stream);
}
CUresult CUDAAPI cuMemsetD32Async(CUdeviceptr address, unsigned value, size_t count, CUstream stream) {
    return fill_on_stream(address, value, count, stream);
}

CUresult CUDAAPI cuMemAdvise(CUdeviceptr, size_t, CUmem_advise, CUmemLocation) { return CUDA_SUCCESS; }
CUresult CUDAAPI cuMemPrefetchAsync(CUdeviceptr, size_t, CUmemLocation, unsigned, CUstream) { return CUDA_SUCCESS; }

CUresult CUDAAPI cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice device) {
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *pool = default_pool(device);
    return CUDA_SUCCESS;
}
CUresult CUDAAPI cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice device) { return cuDeviceGetDefaultMemPool(pool, device); }
CUresult CUDAAPI cuDeviceSetMemPool(CUdevice device, CUmemoryPool) { return is_device(device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }

CUresult CUDAAPI cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps* properties) {
    *pool = new CUmemPoolHandle_st{properties->location.id, 0};
    return CUDA_SUCCESS;
}
CUresult CUDAAPI cuMemPoolDestroy(CUmemoryPool pool) {
    delete pool;
    return CUDA_SUCCESS;
}
CUresult CUDAAPI cuMemPoolTrimTo(CUmemoryPool, size_t) { return CUDA_SUCCESS; }
CUresult CUDAAPI cuDeviceGraphMemTrim(CUdevice) { return CUDA_SUCCESS; }

CUresult CUDAAPI cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute name, void* value) {
    if (name == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) pool->release_threshold = *static_cast<cuuint64_t*>(value);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute name, void* value) {
    switch (name) {
        case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: *static_cast<cuuint64_t*>(value) = pool->release_threshold; break;
        case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
        case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
        case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
        case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
            *static_cast<cuuint64_t*>(value) = options().memory - free_memory(pool->device);
            break;
        default: *static_cast<int*>(value) = 1;
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemAllocFromPoolAsync(CUdeviceptr* address, size_t bytes, CUmemoryPool, CUstream stream) {
    return cuMemAllocAsync(address, bytes, stream);
}

}  // extern "C"
