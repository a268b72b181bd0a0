// What a module's PTX says about its kernels.
#pragma once
#include <cstddef>
#include <map>
#include <string>

namespace emulator {

struct PtxEntry {
    size_t static_shared_bytes = 0;
    unsigned most_threads = 1024;  // .maxntid, of __launch_bounds__
};

std::map<std::string, PtxEntry> entries_of_ptx(const std::string& ptx);

}  // namespace emulator
