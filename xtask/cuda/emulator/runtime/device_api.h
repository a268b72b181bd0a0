// What an emulated kernel may call: the hardware as seen from one thread of a block.
// Included by every kernel (through kernels/cuda_as_cpp.h) and by the scheduler that implements it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include <vector_types.h>

// Set by the scheduler each time it switches to another thread.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

namespace emulator {

constexpr unsigned warp_size = 32;
constexpr size_t shared_memory_default = 48 * 1024;   // of a block, without asking
constexpr size_t shared_memory_opt_in = 227 * 1024;   // after cuFuncSetAttribute(MAX_DYNAMIC_SHARED_SIZE_BYTES)

// The dynamic shared memory of the running block (`extern __shared__`), at one fixed address.
extern char dynamic_shared_memory[shared_memory_opt_in];

// The first touch of a `__shared__` variable in a block: fills it with poison, as nothing is there yet on a GPU,
// and counts its bytes.
void enter_shared_variable(void* variable, size_t bytes);

// What the lanes of a warp hand to one another in one collective operation.
struct WarpValues {
    uint32_t present;  // bit i: lane i took part
    uint64_t values[warp_size];
};

// Waits until every living lane of `mask` has come here, and gives what each of them brought.
const WarpValues& exchange_in_warp(uint32_t mask, uint64_t value);

// How many threads of the block came to a barrier, and for how many of them the predicate held.
struct BarrierCount {
    unsigned arrived;
    unsigned predicate_true;
};

// Waits until every living thread of the block has come here.
BarrierCount wait_at_barrier(bool predicate);

unsigned linear_thread_index();
inline unsigned lane_index() { return linear_thread_index() % warp_size; }

// Says that a shuffle read a lane that did not take part, whose value is undefined on a GPU.
void report_absent_lane(unsigned lane);

// Which kernels there are: each translated file registers its own when the library is loaded.
using KernelCall = void (*)(void (*kernel)(), void** arguments);
using PointerCheck = bool (*)(const void* pointer);
using ArgumentCheck = int (*)(void** arguments, PointerCheck is_device_pointer);

// A copy of a launch's arguments, for a graph that launches again after the caller's are gone.
struct KeptArguments {
    std::vector<void*> addresses;
    std::shared_ptr<void> values;
};
using ArgumentCopy = std::shared_ptr<KeptArguments> (*)(void** arguments);

struct Kernel {
    const char* name;
    void (*function)();
    KernelCall call;
    ArgumentCheck first_bad_argument;
    ArgumentCopy keep_arguments;
};

void register_kernel(const Kernel& kernel);

// Calls a kernel with arguments given by address, as cuLaunchKernel passes them.
template <class... Arguments, size_t... Is>
void call_with(void (*kernel)(Arguments...), void** arguments, std::index_sequence<Is...>) {
    kernel(*static_cast<Arguments*>(arguments[Is])...);
}

template <class Argument>
bool is_bad_pointer(const void* argument, PointerCheck is_device_pointer) {
    if constexpr (std::is_pointer_v<Argument>)
        return !is_device_pointer(reinterpret_cast<const void*>(*static_cast<const Argument*>(argument)));
    else
        return false;
}

template <class... Arguments, size_t... Is>
int first_bad_pointer(void** arguments, PointerCheck check, std::index_sequence<Is...>) {
    int found = -1;
    ((found < 0 && is_bad_pointer<Arguments>(arguments[Is], check) ? void(found = Is) : void()), ...);
    return found;
}

template <class... Arguments, size_t... Is>
std::shared_ptr<KeptArguments> copy_arguments(void** arguments, std::index_sequence<Is...>) {
    using Values = std::tuple<std::remove_const_t<Arguments>...>;
    auto values = std::make_shared<Values>(*static_cast<Arguments*>(arguments[Is])...);
    return std::make_shared<KeptArguments>(KeptArguments{{static_cast<void*>(&std::get<Is>(*values))...}, values});
}

struct Registration {
    template <class... Arguments>
    Registration(const char* name, void (*kernel)(Arguments...)) {
        using Function = void (*)(Arguments...);
        using Indices = std::index_sequence_for<Arguments...>;
        register_kernel({name, reinterpret_cast<void (*)()>(kernel),
                         [](void (*function)(), void** arguments) {
                             call_with(reinterpret_cast<Function>(function), arguments, Indices{});
                         },
                         [](void** arguments, PointerCheck check) {
                             return first_bad_pointer<Arguments...>(arguments, check, Indices{});
                         },
                         [](void** arguments) { return copy_arguments<Arguments...>(arguments, Indices{}); }});
    }
};

}  // namespace emulator
