#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace emulator {
namespace {

constexpr size_t stack_bytes = 256 * 1024;  // reserved, not used: pages come when they are touched
constexpr size_t guard_bytes = 4096;        // below each stack, so that an overflow is a crash and no riddle

void* new_stack() {
    void* memory = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        std::perror("CUDA emulator: no memory for the stack of a thread");
        std::abort();
    }
    mprotect(memory, guard_bytes, PROT_NONE);
    return memory;
}

}  // namespace

#if defined(__x86_64__)

// switch_stack(save, load): pushes the registers that a callee must keep, leaves the stack pointer in *save and goes
// on with the stack `load`, where the same registers lie.
extern "C" void cuda_emulator_switch_stack(void** save, void* load);
asm(R"(
.text
.globl cuda_emulator_switch_stack
.hidden cuda_emulator_switch_stack
.type cuda_emulator_switch_stack, @function
cuda_emulator_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.globl cuda_emulator_start_fiber
.hidden cuda_emulator_start_fiber
cuda_emulator_start_fiber:
    andq $-16, %rsp
    movq %r12, %rdi
    call *%r13
    hlt
)");
extern "C" void cuda_emulator_start_fiber();

Fiber::Fiber(Body body, void* argument) : body(body), argument(argument), stack(new_stack()) {
    // The first switch pops these: r15, r14, r13 (what to call), r12 (its argument), rbx, rbp, the return address.
    auto top = reinterpret_cast<uintptr_t>(stack) + stack_bytes;
    // Above them two words, so that the stack pointer is a multiple of 16 where the calling convention wants it.
    auto frame = reinterpret_cast<uintptr_t*>(top) - 9;
    frame[0] = frame[1] = frame[4] = frame[5] = frame[7] = frame[8] = 0;
    frame[2] = reinterpret_cast<uintptr_t>(&Fiber::enter);
    frame[3] = reinterpret_cast<uintptr_t>(this);
    frame[6] = reinterpret_cast<uintptr_t>(&cuda_emulator_start_fiber);
    own_stack_pointer = frame;
}

void Fiber::resume() { cuda_emulator_switch_stack(&resumer_stack_pointer, own_stack_pointer); }
void Fiber::suspend() { cuda_emulator_switch_stack(&own_stack_pointer, resumer_stack_pointer); }

#else

Fiber::Fiber(Body body, void* argument) : body(body), argument(argument), stack(new_stack()) {
    getcontext(&own_context);
    own_context.uc_stack.ss_sp = stack;
    own_context.uc_stack.ss_size = stack_bytes;
    own_context.uc_link = nullptr;
    auto address = reinterpret_cast<uintptr_t>(this);
    auto start = [](unsigned high, unsigned low) { enter(reinterpret_cast<Fiber*>(uintptr_t(high) << 32 | low)); };
    makecontext(&own_context, reinterpret_cast<void (*)()>(static_cast<void (*)(unsigned, unsigned)>(start)), 2,
                unsigned(address >> 32), unsigned(address));
}

void Fiber::resume() { swapcontext(&resumer_context, &own_context); }
void Fiber::suspend() { swapcontext(&own_context, &resumer_context); }

#endif

Fiber::~Fiber() { munmap(stack, stack_bytes); }

void Fiber::enter(Fiber* self) {
    self->body(self->argument);
    std::abort();  // a body never returns: it suspends for good
}

}  // namespace emulator
