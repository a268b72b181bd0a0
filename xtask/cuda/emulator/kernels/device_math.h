// The arithmetic of CUDA that the C++ library lacks or names otherwise.
#pragma once

using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;

// CUDA has min and max for all pairs of arithmetic types; of floats they are fmin and fmax, which prefer a number to NaN.
template <class A, class B>
using EnableArithmetic =
    std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, std::common_type_t<A, B>>;

template <class A, class B>
constexpr EnableArithmetic<A, B> min(A a, B b) {
    using Common = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<Common>) return std::fmin(Common(a), Common(b));
    else return Common(a) < Common(b) ? Common(a) : Common(b);
}

template <class A, class B>
constexpr EnableArithmetic<A, B> max(A a, B b) {
    using Common = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<Common>) return std::fmax(Common(a), Common(b));
    else return Common(a) < Common(b) ? Common(b) : Common(a);
}

inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752440); }
inline float normcdff(float x) { return float(normcdf(x)); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }
inline float __tanf(float x) { return std::tan(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float sinpif(float x) { return float(std::sin(M_PI * double(x))); }
inline float cospif(float x) { return float(std::cos(M_PI * double(x))); }
inline void __sincosf(float x, float* s, float* c) { *s = std::sin(x), *c = std::cos(x); }

namespace emulator {
template <class To, class From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// Float to integer as PTX's cvt does it: towards the given rounding, clamped to the range, NaN to zero.
template <class Integer>
Integer saturated(double x) {
    if (std::isnan(x)) return 0;
    constexpr auto lowest = std::numeric_limits<Integer>::lowest(), highest = std::numeric_limits<Integer>::max();
    if (x <= double(lowest)) return lowest;
    if (x >= double(highest)) return highest;
    return Integer(x);
}
}  // namespace emulator

inline int __float_as_int(float x) { return emulator::same_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emulator::same_bits<unsigned>(x); }
inline float __int_as_float(int x) { return emulator::same_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulator::same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulator::same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulator::same_bits<double>(x); }
inline int __float2int_rn(float x) { return emulator::saturated<int>(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return emulator::saturated<int>(std::trunc(x)); }
inline int __float2int_rd(float x) { return emulator::saturated<int>(std::floor(x)); }
inline int __float2int_ru(float x) { return emulator::saturated<int>(std::ceil(x)); }
inline unsigned __float2uint_rn(float x) { return emulator::saturated<unsigned>(std::nearbyint(x)); }
inline unsigned __float2uint_rz(float x) { return emulator::saturated<unsigned>(std::trunc(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline float __double2float_rn(double x) { return float(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
    return reversed;
}
inline int __mul24(int a, int b) { return a * b; }
inline unsigned __umul24(unsigned a, unsigned b) { return a * b; }
inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

template <class T>
T __ldg(const T* address) { return *address; }
template <class T>
T __ldcs(const T* address) { return *address; }
template <class T>
T __ldca(const T* address) { return *address; }
template <class T>
T __ldcg(const T* address) { return *address; }
template <class T>
void __stcs(T* address, T value) { *address = value; }

// Functions of __half and __nv_bfloat16 that the toolkit gives device code only: through float, rounded once.
#define EMULATOR_HALF_FUNCTION(NAME, EXPRESSION)                                                              \
    inline __half NAME(__half h) { float x = __half2float(h); return __float2half(EXPRESSION); }              \
    inline __nv_bfloat16 NAME(__nv_bfloat16 h) { float x = __bfloat162float(h); return __float2bfloat16(EXPRESSION); }
EMULATOR_HALF_FUNCTION(hexp, std::exp(x))
EMULATOR_HALF_FUNCTION(hexp2, std::exp2(x))
EMULATOR_HALF_FUNCTION(hlog, std::log(x))
EMULATOR_HALF_FUNCTION(hlog2, std::log2(x))
EMULATOR_HALF_FUNCTION(hlog10, std::log10(x))
EMULATOR_HALF_FUNCTION(hsqrt, std::sqrt(x))
EMULATOR_HALF_FUNCTION(hrsqrt, 1.0f / std::sqrt(x))
EMULATOR_HALF_FUNCTION(hrcp, 1.0f / x)
EMULATOR_HALF_FUNCTION(hsin, std::sin(x))
EMULATOR_HALF_FUNCTION(hcos, std::cos(x))
EMULATOR_HALF_FUNCTION(htanh, std::tanh(x))
EMULATOR_HALF_FUNCTION(hceil, std::ceil(x))
EMULATOR_HALF_FUNCTION(hfloor, std::floor(x))
EMULATOR_HALF_FUNCTION(hrint, std::nearbyint(x))
EMULATOR_HALF_FUNCTION(htrunc, std::trunc(x))
#undef EMULATOR_HALF_FUNCTION
