// What the environment says about the machine to emulate.
#pragma once
#include <cstddef>

namespace emulator {

struct Options {
    int devices;         // CUDA_EMULATOR_DEVICES: how many there are; 0 is a machine without a GPU
    size_t memory;       // CUDA_EMULATOR_MEMORY: bytes of each
    bool backwards;      // CUDA_EMULATOR_ORDER=backwards: blocks and threads run from the last to the first
};

const Options& options();

}  // namespace emulator
