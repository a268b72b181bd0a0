#include "options.h"

#include <cstdlib>
#include <string>

namespace emulator {
namespace {

unsigned long long number(const char* variable, unsigned long long otherwise) {
    const char* text = std::getenv(variable);
    return text && *text ? std::strtoull(text, nullptr, 10) : otherwise;
}

std::string word(const char* variable) {
    const char* text = std::getenv(variable);
    return text ? text : "";
}

}  // namespace

const Options& options() {
    static const Options from_environment{
        int(number("CUDA_EMULATOR_DEVICES", 1)),
        size_t(number("CUDA_EMULATOR_MEMORY", 8ull << 30)),
        word("CUDA_EMULATOR_ORDER") == "backwards",
    };
    return from_environment;
}

}  // namespace emulator
