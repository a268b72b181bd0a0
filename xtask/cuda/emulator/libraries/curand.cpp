// cuRAND: numbers from the C++ library's generator. The same seed gives the same numbers, but not those of a GPU.
#include <cuda.h>
#include <curand.h>

#include <cmath>
#include <random>

#include "../driver/memory.h"
#include "../driver/stream.h"

using namespace emulator;

struct curandGenerator_st {
    std::mt19937_64 engine{0};
    CUstream stream = nullptr;
};

namespace {

// Uniform in (0, 1], as cuRAND's.
template <class T>
T uniform(std::mt19937_64& engine) {
    constexpr int bits = std::is_same_v<T, float> ? 24 : 53;
    return T((engine() >> (64 - bits)) + 1) / T(1ull << bits);
}

template <class T>
T normal(std::mt19937_64& engine, T mean, T deviation) {
    double radius = std::sqrt(-2.0 * std::log(uniform<double>(engine))), angle = 2.0 * M_PI * uniform<double>(engine);
    return T(mean + deviation * radius * std::cos(angle));
}

// Draws when the stream comes to it: a graph draws new numbers at each launch.
template <class T, class Draw>
curandStatus_t generate(curandGenerator_t generator, T* out, size_t count, Draw draw) {
    if (!generator) return CURAND_STATUS_NOT_INITIALIZED;
    CUresult result = submit(generator->stream, [=]() -> CUresult {
        if (!is_device_range(out, count * sizeof(T))) return CUDA_ERROR_ILLEGAL_ADDRESS;
        for (size_t i = 0; i < count; ++i) out[i] = draw(generator->engine);
        return CUDA_SUCCESS;
    });
    return result ? CURAND_STATUS_LAUNCH_FAILURE : CURAND_STATUS_SUCCESS;
}

}  // namespace

extern "C" {

curandStatus_t CURANDAPI curandCreateGenerator(curandGenerator_t* generator, curandRngType_t) {
    *generator = new curandGenerator_st;
    return CURAND_STATUS_SUCCESS;
}
curandStatus_t CURANDAPI curandDestroyGenerator(curandGenerator_t generator) {
    delete generator;
    return CURAND_STATUS_SUCCESS;
}
curandStatus_t CURANDAPI curandGetVersion(int* version) {
    *version = 100400;
    return CURAND_STATUS_SUCCESS;
}
curandStatus_t CURANDAPI curandSetStream(curandGenerator_t generator, cudaStream_t stream) {
    generator->stream = reinterpret_cast<CUstream>(stream);
    return CURAND_STATUS_SUCCESS;
}
curandStatus_t CURANDAPI curandSetPseudoRandomGeneratorSeed(curandGenerator_t generator, unsigned long long seed) {
    generator->engine.seed(seed);
    return CURAND_STATUS_SUCCESS;
}
curandStatus_t CURANDAPI curandSetGeneratorOffset(curandGenerator_t generator, unsigned long long offset) {
    generator->engine.discard(offset);
    return CURAND_STATUS_SUCCESS;
}

curandStatus_t CURANDAPI curandGenerateUniform(curandGenerator_t generator, float* out, size_t count) {
    return generate(generator, out, count, uniform<float>);
}
curandStatus_t CURANDAPI curandGenerateUniformDouble(curandGenerator_t generator, double* out, size_t count) {
    return generate(generator, out, count, uniform<double>);
}
// cuRAND's pseudorandom generators make normal numbers in pairs, and refuse an odd count.
curandStatus_t CURANDAPI curandGenerateNormal(curandGenerator_t generator, float* out, size_t count, float mean, float deviation) {
    if (count % 2) return CURAND_STATUS_LENGTH_NOT_MULTIPLE;
    return generate(generator, out, count, [=](std::mt19937_64& engine) { return normal(engine, mean, deviation); });
}
curandStatus_t CURANDAPI curandGenerateNormalDouble(curandGenerator_t generator, double* out, size_t count, double mean, double deviation) {
    if (count % 2) return CURAND_STATUS_LENGTH_NOT_MULTIPLE;
    return generate(generator, out, count, [=](std::mt19937_64& engine) { return normal(engine, mean, deviation); });
}
curandStatus_t CURANDAPI curandGenerate(curandGenerator_t generator, unsigned* out, size_t count) {
    return generate(generator, out, count, [](std::mt19937_64& engine) { return unsigned(engine() >> 32); });
}
curandStatus_t CURANDAPI curandGenerateLongLong(curandGenerator_t generator, unsigned long long* out, size_t count) {
    return generate(generator, out, count, [](std::mt19937_64& engine) { return (unsigned long long)engine(); });
}

}  // extern "C"
