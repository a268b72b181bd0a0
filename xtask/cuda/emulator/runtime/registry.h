// All kernels that were compiled in, by name.
#pragma once
#include <string>

#include "device_api.h"

namespace emulator {

const Kernel* find_kernel(const std::string& name);

}  // namespace emulator
