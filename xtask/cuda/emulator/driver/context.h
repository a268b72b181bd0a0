// Devices and contexts: which device a thread works on.
#pragma once
#include <cuda.h>

struct CUctx_st {
    int device;
    int references;  // of a primary context
};

namespace emulator {

bool initialised();
bool is_device(CUdevice device);
CUctx_st* current_context();  // of the calling thread; null if none is set

}  // namespace emulator
