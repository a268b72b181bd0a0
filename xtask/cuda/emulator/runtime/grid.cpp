#include "grid.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "fiber.h"
#include "options.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace emulator {

alignas(256) char dynamic_shared_memory[shared_memory_opt_in];

namespace {

constexpr int poison = 0xFF;  // as floats of any width: NaN

enum class State : uint8_t { unstarted, running, at_barrier, in_warp_exchange, done };

struct Thread {
    State state;
    bool predicate;          // what it brought to the barrier
    uint32_t exchange_mask;  // with whom it exchanges
    uint64_t exchange_value;
    struct Worker* worker;   // the fiber that it is suspended on
    WarpValues received;
};

struct Worker {
    std::unique_ptr<Fiber> fiber;
    Thread* thread;
};

struct SharedVariable {
    void* address;
    size_t bytes;
};

struct Block {
    const Launch* launch;
    std::vector<Thread> threads;
    unsigned thread_count;
    unsigned next_unstarted;  // in the order of starting
    unsigned current;         // the thread that runs
    BarrierCount last_barrier;
    std::vector<SharedVariable> shared_variables;
    size_t shared_bytes;
    std::vector<std::unique_ptr<Worker>> workers;  // all that were ever made
    std::vector<Worker*> idle_workers;
} block;

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    std::fprintf(stderr, "CUDA emulator: kernel %s, block (%u, %u, %u): ", block.launch->kernel->name, blockIdx.x,
                 blockIdx.y, blockIdx.z);
    std::vfprintf(stderr, format, values);
    std::fputc('\n', stderr);
    std::abort();
}

// The i-th thread to run. Backwards is as good an order as forwards, unless the kernel has a race.
unsigned in_order(unsigned i, unsigned count) { return options().backwards ? count - 1 - i : i; }

void make_current(unsigned thread) {
    block.current = thread;
    threadIdx.x = thread % blockDim.x;
    threadIdx.y = thread / blockDim.x % blockDim.y;
    threadIdx.z = thread / (blockDim.x * blockDim.y);
}

void suspend_current(State state) {
    Thread& thread = block.threads[block.current];
    thread.state = state;
    thread.worker->fiber->suspend();
}

// A worker runs one unstarted thread after another. A thread that must wait keeps the worker, and the scheduler takes
// another one for the rest: a kernel without synchronisation needs one fiber for all its threads.
void work(void* argument) {
    auto self = static_cast<Worker*>(argument);
    for (;;) {
        while (block.next_unstarted < block.thread_count) {
            unsigned index = in_order(block.next_unstarted++, block.thread_count);
            Thread& thread = block.threads[index];
            thread.state = State::running;
            thread.worker = self;
            make_current(index);
            block.launch->kernel->call(block.launch->kernel->function, block.launch->arguments);
            block.threads[block.current].state = State::done;
        }
        block.idle_workers.push_back(self);
        self->fiber->suspend();
    }
}

Worker* idle_worker() {
    if (block.idle_workers.empty()) {
        block.workers.push_back(std::make_unique<Worker>());
        Worker* worker = block.workers.back().get();
        worker->fiber = std::make_unique<Fiber>(work, worker);
        return worker;
    }
    Worker* worker = block.idle_workers.back();
    block.idle_workers.pop_back();
    return worker;
}

void start_all_threads() {
    block.next_unstarted = 0;
    while (block.next_unstarted < block.thread_count) idle_worker()->fiber->resume();
}

// Goes on with all threads that may run. True if there was any.
bool run_released_threads() {
    bool any = false;
    for (unsigned i = 0; i < block.thread_count; ++i) {
        unsigned index = in_order(i, block.thread_count);
        if (block.threads[index].state == State::running) {
            any = true;
            make_current(index);
            block.threads[index].worker->fiber->resume();
        }
    }
    return any;
}

// Lanes that all wait for one another have exchanged: gives each the values of all.
bool release_exchanges_of_warp(unsigned first, unsigned end) {
    bool any = false;
    for (unsigned lane = first; lane < end; ++lane) {
        if (block.threads[lane].state != State::in_warp_exchange) continue;
        uint32_t mask = block.threads[lane].exchange_mask;
        WarpValues values{};
        bool complete = true;
        for (unsigned other = first; other < end; ++other) {
            Thread& thread = block.threads[other];
            if (!(mask >> (other - first) & 1) || thread.state == State::done) continue;
            if (thread.state != State::in_warp_exchange || thread.exchange_mask != mask) {
                complete = false;
                break;
            }
            values.present |= 1u << (other - first);
            values.values[other - first] = thread.exchange_value;
        }
        if (!complete) continue;
        for (unsigned other = first; other < end; ++other)
            if (values.present >> (other - first) & 1) {
                block.threads[other].received = values;
                block.threads[other].state = State::running;
            }
        any = true;
    }
    return any;
}

bool release_exchanges() {
    bool any = false;
    for (unsigned first = 0; first < block.thread_count; first += warp_size)
        any |= release_exchanges_of_warp(first, std::min(first + warp_size, block.thread_count));
    return any;
}

// True if all living threads wait at the barrier, which lets them go.
bool release_barrier() {
    BarrierCount count{};
    for (unsigned i = 0; i < block.thread_count; ++i) {
        Thread& thread = block.threads[i];
        if (thread.state == State::done) continue;
        if (thread.state != State::at_barrier) return false;
        count.arrived++;
        count.predicate_true += thread.predicate;
    }
    if (count.arrived == 0) return false;
    block.last_barrier = count;
    for (unsigned i = 0; i < block.thread_count; ++i)
        if (block.threads[i].state == State::at_barrier) block.threads[i].state = State::running;
    return true;
}

void check_all_done() {
    unsigned at_barrier = 0, in_exchange = 0, example = 0;
    for (unsigned i = 0; i < block.thread_count; ++i) {
        at_barrier += block.threads[i].state == State::at_barrier;
        in_exchange += block.threads[i].state == State::in_warp_exchange;
        if (block.threads[i].state == State::in_warp_exchange) example = i;
    }
    if (at_barrier + in_exchange == 0) return;
    fail("deadlock: %u threads wait at __syncthreads and %u in a warp operation (for instance thread %u, mask %#x) "
         "for threads that never come there",
         at_barrier, in_exchange, example, block.threads[example].exchange_mask);
}

void run_block() {
    block.shared_variables.clear();
    block.shared_bytes = block.launch->dynamic_shared_bytes;
    std::memset(dynamic_shared_memory, poison, block.launch->dynamic_shared_bytes);
    for (unsigned i = 0; i < block.thread_count; ++i) block.threads[i].state = State::unstarted;
    start_all_threads();
    while (run_released_threads() || release_exchanges() || release_barrier()) {}
    check_all_done();
}

}  // namespace

void run_grid(const Launch& launch) {
    block.launch = &launch;
    blockDim = launch.block;
    gridDim = launch.grid;
    block.thread_count = launch.block.x * launch.block.y * launch.block.z;
    if (block.threads.size() < block.thread_count) block.threads.resize(block.thread_count);
    uint64_t count = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
    for (uint64_t i = 0; i < count; ++i) {
        uint64_t index = options().backwards ? count - 1 - i : i;
        blockIdx.x = index % launch.grid.x;
        blockIdx.y = index / launch.grid.x % launch.grid.y;
        blockIdx.z = index / (uint64_t(launch.grid.x) * launch.grid.y);
        run_block();
    }
}

unsigned linear_thread_index() { return block.current; }

void enter_shared_variable(void* variable, size_t bytes) {
    for (auto& known : block.shared_variables)
        if (known.address == variable) return;
    block.shared_variables.push_back({variable, bytes});
    block.shared_bytes += bytes;
    if (block.shared_bytes > block.launch->shared_bytes_allowed)
        fail("%zu bytes of shared memory, more than the %zu of a block", block.shared_bytes,
             block.launch->shared_bytes_allowed);
    std::memset(variable, poison, bytes);
}

const WarpValues& exchange_in_warp(uint32_t mask, uint64_t value) {
    Thread& thread = block.threads[block.current];
    if (!(mask >> lane_index() & 1)) fail("thread %u is not in the mask %#x of its own warp operation", block.current, mask);
    thread.exchange_mask = mask;
    thread.exchange_value = value;
    suspend_current(State::in_warp_exchange);
    return thread.received;
}

BarrierCount wait_at_barrier(bool predicate) {
    block.threads[block.current].predicate = predicate;
    suspend_current(State::at_barrier);
    return block.last_barrier;
}

void report_absent_lane(unsigned lane) {
    static const Kernel* reported;
    if (reported == block.launch->kernel) return;
    reported = block.launch->kernel;
    std::fprintf(stderr, "CUDA emulator: kernel %s: a shuffle of thread %u reads lane %u, which takes no part: undefined\n",
                 reported->name, block.current, lane);
}

}  // namespace emulator
