// One lock around everything: the device does one thing at a time, whichever thread asks for it.
#pragma once
#include <mutex>

namespace emulator {

std::recursive_mutex& device_mutex();

class Locked {
    std::lock_guard<std::recursive_mutex> guard{device_mutex()};
};

}  // namespace emulator
