// The memory of the emulated devices: host memory under watch.
#pragma once
#include <cuda.h>

#include <cstddef>

namespace emulator {

enum class MemoryKind {
    device,
    managed,      // both sides may use it
    pinned_host,  // of the host, known to the device
};

// Fresh memory is filled with 0xFF (as floats: NaN) and lies between guard bytes.
CUresult allocate(int device, size_t bytes, MemoryKind kind, void** address);

// Checks the guards, fills the memory with 0xFF again and keeps it for a while, so that late readers read NaN and late
// writers are found. Aborts with a message if the address is not one that was given out.
void release(void* address, const char* caller);

// Memory of a graph: its address stays, but it is there only from the graph's allocation to the graph's free.
void set_present(void* address, bool present);

bool is_allocation(const void* address);
bool is_device_range(const void* address, size_t bytes);  // inside one living allocation that the device can see
bool is_pageable_host(const void* address);
size_t free_memory(int device);

}  // namespace emulator
