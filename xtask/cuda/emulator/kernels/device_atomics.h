// Atomic operations: one thread runs at a time, so reading, computing and writing is atomic as it is.
#pragma once

namespace emulator {
template <class T, class Operation>
T replace(T* address, Operation operation) {
    T old = *address;
    *address = operation(old);
    return old;
}

template <class T>
struct identity { using type = T; };
template <class T>
using not_deduced = typename identity<T>::type;
}  // namespace emulator

template <class T>
T atomicAdd(T* address, emulator::not_deduced<T> value) {
    return emulator::replace(address, [=](T old) { return T(old + value); });
}
template <class T>
T atomicSub(T* address, emulator::not_deduced<T> value) {
    return emulator::replace(address, [=](T old) { return T(old - value); });
}
template <class T>
T atomicMin(T* address, emulator::not_deduced<T> value) {
    return emulator::replace(address, [=](T old) { return value < old ? value : old; });
}
template <class T>
T atomicMax(T* address, emulator::not_deduced<T> value) {
    return emulator::replace(address, [=](T old) { return old < value ? value : old; });
}
template <class T>
T atomicAnd(T* address, emulator::not_deduced<T> value) {
    return emulator::replace(address, [=](T old) { return T(old & value); });
}
template <class T>
T atomicOr(T* address, emulator::not_deduced<T> value) {
    return emulator::replace(address, [=](T old) { return T(old | value); });
}
template <class T>
T atomicXor(T* address, emulator::not_deduced<T> value) {
    return emulator::replace(address, [=](T old) { return T(old ^ value); });
}
template <class T>
T atomicExch(T* address, emulator::not_deduced<T> value) {
    return emulator::replace(address, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* address, emulator::not_deduced<T> expected, emulator::not_deduced<T> value) {
    return emulator::replace(address, [=](T old) { return old == expected ? value : old; });
}
inline unsigned atomicInc(unsigned* address, unsigned limit) {
    return emulator::replace(address, [=](unsigned old) { return old >= limit ? 0 : old + 1; });
}
inline unsigned atomicDec(unsigned* address, unsigned limit) {
    return emulator::replace(address, [=](unsigned old) { return old == 0 || old > limit ? limit : old - 1; });
}
