#include "registry.h"

#include <cstdio>
#include <cstdlib>
#include <unordered_map>

namespace emulator {
namespace {

std::unordered_map<std::string, Kernel>& kernels() {
    static std::unordered_map<std::string, Kernel> by_name;
    return by_name;
}

}  // namespace

void register_kernel(const Kernel& kernel) {
    if (!kernels().emplace(kernel.name, kernel).second) {
        std::fprintf(stderr, "CUDA emulator: two kernels are named %s\n", kernel.name);
        std::abort();
    }
}

const Kernel* find_kernel(const std::string& name) {
    auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second;
}

}  // namespace emulator
