// Barriers, and what the lanes of a warp do together.
#pragma once

inline void __syncthreads() { emulator::wait_at_barrier(false); }
inline int __syncthreads_count(int predicate) { return emulator::wait_at_barrier(predicate).predicate_true; }
inline int __syncthreads_or(int predicate) { return emulator::wait_at_barrier(predicate).predicate_true > 0; }
inline int __syncthreads_and(int predicate) {
    auto count = emulator::wait_at_barrier(predicate);
    return count.predicate_true == count.arrived;
}
inline void __syncwarp(unsigned mask = 0xffffffff) { emulator::exchange_in_warp(mask, 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

namespace emulator {

template <class T>
uint64_t as_bits(T value) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most 64 bits");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
}

// The value of lane `source`, where it is one of this lane's segment of `width` lanes; else this lane's own.
template <class T>
T shuffle(unsigned mask, T value, int source, int first, int end) {
    const WarpValues& all = exchange_in_warp(mask, as_bits(value));
    if (source < first || source >= end) return value;
    uint64_t bits = all.values[source];
    if (!(all.present >> source & 1)) {
        report_absent_lane(source);
        bits = ~uint64_t(0);
    }
    T result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

inline int segment_of_lane(int width) { return int(lane_index()) / width * width; }

inline uint32_t ballot(unsigned mask, bool predicate) {
    const WarpValues& all = exchange_in_warp(mask, predicate);
    uint32_t votes = 0;
    for (unsigned lane = 0; lane < warp_size; ++lane) votes |= uint32_t(all.values[lane] & 1) << lane;
    return votes;
}

template <class T, class Operation>
T reduce(unsigned mask, T value, Operation operation) {
    const WarpValues& all = exchange_in_warp(mask, as_bits(value));
    bool any = false;
    T result{};
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        if (!(all.present >> lane & 1)) continue;
        T other;
        std::memcpy(&other, &all.values[lane], sizeof other);
        result = any ? operation(result, other) : other;
        any = true;
    }
    return result;
}

}  // namespace emulator

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize) {
    int first = emulator::segment_of_lane(width);
    return emulator::shuffle(mask, value, first + (source & (width - 1)), first, first + width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
    int first = emulator::segment_of_lane(width);
    return emulator::shuffle(mask, value, int(emulator::lane_index()) - int(delta), first, first + width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
    int first = emulator::segment_of_lane(width);
    return emulator::shuffle(mask, value, int(emulator::lane_index()) + int(delta), first, first + width);
}
// May read an earlier segment, but no later one.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize) {
    int end = emulator::segment_of_lane(width) + width;
    return emulator::shuffle(mask, value, int(emulator::lane_index()) ^ lane_mask, 0, end);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) { return emulator::ballot(mask, predicate); }
inline int __any_sync(unsigned mask, int predicate) { return emulator::ballot(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return emulator::ballot(mask, !predicate) == 0; }
inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
    return emulator::reduce(mask, value, [](unsigned a, unsigned b) { return a + b; });
}
inline int __reduce_add_sync(unsigned mask, int value) {
    return emulator::reduce(mask, value, [](int a, int b) { return a + b; });
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
    return emulator::reduce(mask, value, [](unsigned a, unsigned b) { return a < b ? a : b; });
}
inline int __reduce_min_sync(unsigned mask, int value) {
    return emulator::reduce(mask, value, [](int a, int b) { return a < b ? a : b; });
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
    return emulator::reduce(mask, value, [](unsigned a, unsigned b) { return a < b ? b : a; });
}
inline int __reduce_max_sync(unsigned mask, int value) {
    return emulator::reduce(mask, value, [](int a, int b) { return a < b ? b : a; });
}
inline unsigned __match_any_sync(unsigned mask, unsigned value) {
    const auto& all = emulator::exchange_in_warp(mask, value);
    unsigned same = 0;
    for (unsigned lane = 0; lane < emulator::warp_size; ++lane)
        same |= unsigned((all.present >> lane & 1) && all.values[lane] == value) << lane;
    return same;
}
