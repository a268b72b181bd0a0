// cuModule…, cuFunc…, cuLaunch…, cuOccupancy…: kernels, from the name to the run.
#include <cuda.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <unordered_map>
#include <vector>

#include "../runtime/grid.h"
#include "../runtime/registry.h"
#include "context.h"
#include "lock.h"
#include "memory.h"
#include "module.h"
#include "stream.h"

using namespace emulator;

struct CUfunc_st {
    const Kernel* kernel;
    PtxEntry ptx;
    size_t dynamic_shared_limit;
};

struct CUmod_st {
    std::map<std::string, PtxEntry> entries;
    std::map<std::string, std::unique_ptr<CUfunc_st>> functions;
};

namespace {

unsigned long long product(const dim3& size) { return 1ull * size.x * size.y * size.z; }

CUresult check_shape(const CUfunc_st& function, dim3 grid, dim3 block, size_t shared) {
    if (product(grid) == 0 || product(block) == 0) return CUDA_ERROR_INVALID_VALUE;
    if (grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535) return CUDA_ERROR_INVALID_VALUE;
    if (block.x > 1024 || block.y > 1024 || block.z > 64) return CUDA_ERROR_INVALID_VALUE;
    if (product(block) > function.ptx.most_threads) return CUDA_ERROR_INVALID_VALUE;
    if (shared > function.dynamic_shared_limit) return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

bool is_null_or_device_pointer(const void* address) { return !address || is_device_range(address, 0); }

CUresult run(const CUfunc_st& function, dim3 grid, dim3 block, size_t shared, void** arguments) {
    int bad = function.kernel->first_bad_argument(arguments, is_null_or_device_pointer);
    if (bad >= 0) {
        std::fprintf(stderr, "CUDA emulator: argument %d of kernel %s is no pointer to memory of the device that is in use\n", bad,
                     function.kernel->name);
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    run_grid({function.kernel, grid, block, shared,
              std::max(shared_memory_default, function.ptx.static_shared_bytes + function.dynamic_shared_limit), arguments});
    return CUDA_SUCCESS;
}

CUresult launch(CUfunction function, dim3 grid, dim3 block, size_t shared, CUstream stream, void** arguments) {
    if (!current_context()) return CUDA_ERROR_INVALID_CONTEXT;
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (CUresult result = check_shape(*function, grid, block, shared)) return result;
    Locked locked;
    if (!capture_of(stream)) return submit(stream, [=] { return run(*function, grid, block, shared, arguments); });
    auto kept = function->kernel->keep_arguments(arguments);
    return submit(stream, [=] { return run(*function, grid, block, shared, kept->addresses.data()); });
}

int blocks_per_multiprocessor(CUfunction function, int block_size, size_t shared) {
    if (block_size <= 0 || block_size > 1024) return 0;
    int by_threads = 2048 / block_size;
    size_t per_block = function->ptx.static_shared_bytes + shared + 1024;
    int by_memory = int(228 * 1024 / per_block);
    return std::min({by_threads, by_memory, 32});
}

}  // namespace

extern "C" {

CUresult CUDAAPI cuModuleLoadData(CUmodule* module, const void* image) {
    if (!current_context()) return CUDA_ERROR_INVALID_CONTEXT;
    std::string ptx = static_cast<const char*>(image);
    if (ptx.find(".version") == std::string::npos) return CUDA_ERROR_INVALID_IMAGE;
    *module = new CUmod_st{entries_of_ptx(ptx), {}};
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) { return cuModuleLoadData(module, image); }

CUresult CUDAAPI cuModuleLoad(CUmodule* module, const char* path) {
    std::ifstream file(path);
    if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
    std::string ptx(std::istreambuf_iterator<char>(file), {});
    return cuModuleLoadData(module, ptx.c_str());
}

CUresult CUDAAPI cuModuleUnload(CUmodule module) {
    if (!module) return CUDA_ERROR_INVALID_HANDLE;
    delete module;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    Locked locked;
    if (!module) return CUDA_ERROR_INVALID_HANDLE;
    auto entry = module->entries.find(name);
    if (entry == module->entries.end()) return CUDA_ERROR_NOT_FOUND;
    const Kernel* kernel = find_kernel(name);
    if (!kernel) {
        std::fprintf(stderr, "CUDA emulator: kernel %s is in the PTX, but was not compiled into the emulator\n", name);
        return CUDA_ERROR_NOT_FOUND;
    }
    auto& known = module->functions[name];
    if (!known) known = std::make_unique<CUfunc_st>(CUfunc_st{kernel, entry->second, shared_memory_default - std::min(shared_memory_default, entry->second.static_shared_bytes)});
    *function = known.get();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncGetAttribute(int* value, CUfunction_attribute name, CUfunction function) {
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    switch (name) {
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = int(function->ptx.most_threads); break;
        case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = int(function->ptx.static_shared_bytes); break;
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = int(function->dynamic_shared_limit); break;
        case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = 32; break;
        case CU_FUNC_ATTRIBUTE_PTX_VERSION:
        case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = 90; break;
        default: *value = 0;
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncSetAttribute(CUfunction function, CUfunction_attribute name, int value) {
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (name == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        if (value < 0 || value + function->ptx.static_shared_bytes > shared_memory_opt_in) return CUDA_ERROR_INVALID_VALUE;
        function->dynamic_shared_limit = value;
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncSetCacheConfig(CUfunction function, CUfunc_cache) { return function ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; }

CUresult CUDAAPI cuFuncGetName(const char** name, CUfunction function) {
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    *name = function->kernel->name;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                                unsigned block_z, unsigned shared, CUstream stream, void** arguments, void** extra) {
    if (extra) return CUDA_ERROR_NOT_SUPPORTED;
    return launch(function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, stream, arguments);
}

CUresult CUDAAPI cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** arguments, void** extra) {
    if (extra) return CUDA_ERROR_NOT_SUPPORTED;
    return launch(function, {config->gridDimX, config->gridDimY, config->gridDimZ}, {config->blockDimX, config->blockDimY, config->blockDimZ},
                  config->sharedMemBytes, config->hStream, arguments);
}

CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int block_size, size_t shared) {
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    *blocks = blocks_per_multiprocessor(function, block_size, shared);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction function, int block_size, size_t shared, unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, block_size, shared);
}

CUresult CUDAAPI cuOccupancyMaxPotentialBlockSize(int* grid, int* block, CUfunction function, CUoccupancyB2DSize shared_of, size_t shared,
                                                  int limit) {
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    int most = int(function->ptx.most_threads);
    *block = limit > 0 ? std::min(limit, most) : most;
    if (shared_of) shared = shared_of(*block);
    *grid = 132 * blocks_per_multiprocessor(function, *block, shared);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuOccupancyMaxPotentialBlockSizeWithFlags(int* grid, int* block, CUfunction function, CUoccupancyB2DSize shared_of,
                                                           size_t shared, int limit, unsigned) {
    return cuOccupancyMaxPotentialBlockSize(grid, block, function, shared_of, shared, limit);
}

}  // extern "C"
