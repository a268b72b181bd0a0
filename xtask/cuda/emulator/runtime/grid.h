// Runs the grid of one kernel launch: block after block, the threads of a block as fibers.
#pragma once
#include "device_api.h"

namespace emulator {

struct Launch {
    const Kernel* kernel;
    dim3 grid;
    dim3 block;
    size_t dynamic_shared_bytes;
    size_t shared_bytes_allowed;  // static and dynamic together
    void** arguments;
};

// Whoever calls holds the lock of the device. Aborts with a message where a GPU would hang or compute nonsense:
// threads of a block that wait for each other for ever, more shared memory than there is.
void run_grid(const Launch& launch);

}  // namespace emulator
