// A fiber: a stack of its own that runs a function, and gives the processor back whenever it likes.
#pragma once
#include <cstddef>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

class Fiber {
public:
    using Body = void (*)(void* argument);

    Fiber(Body body, void* argument);
    ~Fiber();
    Fiber(const Fiber&) = delete;

    // From outside: runs the fiber until it suspends. From inside: gives control back to who resumed it.
    void resume();
    void suspend();

private:
    static void enter(Fiber* self);

    Body body;
    void* argument;
    void* stack;
#if defined(__x86_64__)
    void* own_stack_pointer;
    void* resumer_stack_pointer;
#else
    ucontext_t own_context;
    ucontext_t resumer_context;
#endif
};

}  // namespace emulator
