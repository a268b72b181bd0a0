#include "memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>

#include "../runtime/options.h"
#include "lock.h"

namespace emulator {
namespace {

constexpr int poison = 0xFF;
constexpr unsigned char guard_byte = 0xA5;
constexpr size_t guard_bytes = 256;
constexpr size_t alignment = 256;
constexpr size_t quarantine_limit = 64 << 20;

struct Allocation {
    size_t bytes;
    int device;
    MemoryKind kind;
    bool present;
};

struct Freed {
    unsigned char* address;
    size_t bytes;
};

std::map<uintptr_t, Allocation> allocations;
std::map<int, size_t> used;
std::deque<Freed> quarantine;
size_t quarantined;

[[noreturn]] void fail(const char* what, const void* address, size_t bytes, const char* caller) {
    std::fprintf(stderr, "CUDA emulator: %s: %s (address %p, %zu bytes)\n", caller, what, address, bytes);
    std::abort();
}

bool holds_only(const unsigned char* begin, size_t bytes, unsigned char value) {
    for (size_t i = 0; i < bytes; ++i)
        if (begin[i] != value) return false;
    return true;
}

void empty_quarantine(size_t down_to) {
    while (quarantined > down_to) {
        Freed freed = quarantine.front();
        quarantine.pop_front();
        quarantined -= freed.bytes;
        if (!holds_only(freed.address, freed.bytes, poison)) fail("memory was written after it was freed", freed.address, freed.bytes, "free");
        std::free(freed.address - guard_bytes);
    }
}

// The allocation that holds the address or ends at it.
std::map<uintptr_t, Allocation>::iterator find(const void* address) {
    auto value = reinterpret_cast<uintptr_t>(address);
    auto next = allocations.upper_bound(value);
    if (next == allocations.begin()) return allocations.end();
    --next;
    return value <= next->first + next->second.bytes ? next : allocations.end();
}

}  // namespace

CUresult allocate(int device, size_t bytes, MemoryKind kind, void** address) {
    Locked locked;
    if (kind == MemoryKind::device && bytes > free_memory(device)) return CUDA_ERROR_OUT_OF_MEMORY;
    size_t all = (guard_bytes + bytes + guard_bytes + alignment - 1) / alignment * alignment;
    auto memory = static_cast<unsigned char*>(std::aligned_alloc(alignment, all));
    if (!memory) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(memory, guard_byte, guard_bytes);
    std::memset(memory + guard_bytes, poison, bytes);
    std::memset(memory + guard_bytes + bytes, guard_byte, guard_bytes);
    *address = memory + guard_bytes;
    allocations[reinterpret_cast<uintptr_t>(*address)] = {bytes, device, kind, true};
    if (kind == MemoryKind::device) used[device] += bytes;
    return CUDA_SUCCESS;
}

void release(void* address, const char* caller) {
    Locked locked;
    auto found = allocations.find(reinterpret_cast<uintptr_t>(address));
    if (found == allocations.end()) fail("no such allocation, or freed before", address, 0, caller);
    Allocation allocation = found->second;
    auto memory = static_cast<unsigned char*>(address);
    if (!holds_only(memory - guard_bytes, guard_bytes, guard_byte)) fail("something was written before the allocation", address, allocation.bytes, caller);
    if (!holds_only(memory + allocation.bytes, guard_bytes, guard_byte)) fail("something was written behind the allocation", address, allocation.bytes, caller);
    if (allocation.kind == MemoryKind::device) used[allocation.device] -= allocation.bytes;
    allocations.erase(found);
    std::memset(memory, poison, allocation.bytes);
    quarantine.push_back({memory, allocation.bytes});
    quarantined += allocation.bytes;
    empty_quarantine(quarantine_limit);
}

void set_present(void* address, bool present) {
    Locked locked;
    auto found = allocations.find(reinterpret_cast<uintptr_t>(address));
    if (found == allocations.end()) return;
    found->second.present = present;
    std::memset(address, poison, found->second.bytes);
}

bool is_allocation(const void* address) {
    Locked locked;
    auto found = allocations.find(reinterpret_cast<uintptr_t>(address));
    return found != allocations.end() && found->second.present;
}

bool is_device_range(const void* address, size_t bytes) {
    Locked locked;
    if (bytes == 0 && !address) return true;
    auto found = find(address);
    if (found == allocations.end() || !found->second.present) return false;
    return reinterpret_cast<uintptr_t>(address) + bytes <= found->first + found->second.bytes;
}

bool is_pageable_host(const void* address) {
    Locked locked;
    return find(address) == allocations.end();
}

size_t free_memory(int device) {
    Locked locked;
    size_t taken = used[device];
    return taken < options().memory ? options().memory - taken : 0;
}

}  // namespace emulator
