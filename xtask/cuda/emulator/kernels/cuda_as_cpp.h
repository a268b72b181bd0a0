// Makes CUDA C++ read as C++: included by force before each kernel file. What the toolkit's headers give a host
// compiler (vector types, __half, __nv_bfloat16, fp8) comes from them; the rest of the device's language is here.
#pragma once
#include <cassert>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <vector_functions.h>
#include <vector_types.h>
#include <cuda/std/limits>

#include "../runtime/device_api.h"

#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __shared__
#undef __managed__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __align__
#undef __grid_constant__
#undef __restrict__

// translate.py looks for these two words in the preprocessed text, and takes them away.
#define __global__ EMULATOR_GLOBAL
#define __shared__ EMULATOR_SHARED

#define __device__
#define __host__
#define __constant__
#define __managed__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
#define __restrict__ __restrict

constexpr int warpSize = emulator::warp_size;

#include "device_math.h"
#include "device_atomics.h"
#include "device_synchronisation.h"

// The capability that kernels are compiled for. Set after the toolkit's headers, which would otherwise take us for a
// device compiler and give us inline PTX.
#define __CUDA_ARCH__ 900

// From here on the text is the kernels': translate.py puts it in a namespace.
#pragma emulator kernels begin
