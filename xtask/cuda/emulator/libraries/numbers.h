// The number formats of the libraries, read as double and written rounded to nearest.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace emulator {

inline double to_double(double x) { return x; }
inline double to_double(float x) { return x; }
inline double to_double(__half x) { return __half2float(x); }
inline double to_double(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
T from_double(double x);
template <>
inline double from_double(double x) { return x; }
template <>
inline float from_double(double x) { return float(x); }
template <>
inline __half from_double(double x) { return __double2half(x); }
template <>
inline __nv_bfloat16 from_double(double x) { return __double2bfloat16(x); }

}  // namespace emulator
