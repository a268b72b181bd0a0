// What the CUDA backend computes besides convolutions and matrix products: passes over channels-last arrays,
// [rows, channels] with the channels side by side, and updates of many parameters in one launch.
//
// No kernel uses atomic operations: sums are added up in an order that depends on shapes alone, so that a run on the same
// card repeats. Sums over many rows are kept in double. bf16 arrays are computed with in float.
#include <cuda_bf16.h>

typedef unsigned long long Count;

// The type that elements of T are computed with.
template <class T> struct Arithmetic { typedef T Type; };
template <> struct Arithmetic<__nv_bfloat16> { typedef float Type; };

template <class T> __device__ __forceinline__ typename Arithmetic<T>::Type get(T v) { return v; }
__device__ __forceinline__ float get(__nv_bfloat16 v) { return __bfloat162float(v); }
template <class T> struct Put {
    template <class A> static __device__ __forceinline__ T of(A v) { return (T)v; }
};
template <> struct Put<__nv_bfloat16> {
    template <class A> static __device__ __forceinline__ __nv_bfloat16 of(A v) { return __float2bfloat16((float)v); }
};

__device__ __forceinline__ Count first_element() { return (Count)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ Count next_element() { return (Count)gridDim.x * blockDim.x; }

// The same for arrays of rows of channels, so that all elements of a thread are of one channel: a remainder of 64 bits costs
// more than an element's share of the memory. Threads beyond the last whole row have none; there is at least one row of them.
__device__ __forceinline__ Count next_of_channel(Count channels) { return next_element() / channels * channels; }
__device__ __forceinline__ Count first_of_channel(Count count, Count channels) {
    return first_element() < next_of_channel(channels) ? first_element() : count;
}

// Whether an array's indices fit into 32 bits, whose divisions are several times faster.
__device__ __forceinline__ bool is_short(Count count) { return count < (1ull << 31); }

// A function on `count` elements made of, or into, `others`, with indices as short as they can be.
#define SHORT_OR_LONG(T, others, function, count, ...)                                                                         \
    if (is_short(count) && is_short(others)) function<T, unsigned, int>(count, __VA_ARGS__);                                   \
    else function<T, Count, long long>(count, __VA_ARGS__);

// max(x, 0), and NaN for NaN.
template <class A> __device__ __forceinline__ A positive_part(A x) { return x <= (A)0 ? (A)0 : x; }

// The gradient before a ReLU whose result was y.
template <class A> __device__ __forceinline__ A stopped(A y, A gradient) { return y <= (A)0 ? (A)0 : gradient; }

// y = relu(x + bias + add), the last two and the ReLU where asked for.
template <class T, class A>
__device__ void epilogue(Count count, Count channels, int has_bias, int has_add, int relu, const T *x, const A *bias,
                         const T *add, T *y) {
    A shift = has_bias ? bias[first_element() % channels] : (A)0;
    for (Count i = first_of_channel(count, channels); i < count; i += next_of_channel(channels)) {
        A v = get(x[i]);
        if (has_bias) v += shift;
        if (has_add) v += get(add[i]);
        y[i] = Put<T>::of(relu ? positive_part(v) : v);
    }
}

// The gradient where y > 0 (or NaN), else 0.
template <class T> __device__ void stop(Count count, const T *y, const T *gradient, T *result) {
    for (Count i = first_element(); i < count; i += next_element()) result[i] = get(y[i]) <= 0 ? Put<T>::of(0.f) : gradient[i];
}

const int LANES = 32;  // channels of a block
const int WAYS = 8;    // rows that a block reads side by side
const int SHORT = 32;  // terms that are added up in the arithmetic type before they go into a double

// Two sums of each channel over the rows of a block: parts[block of rows][2][channels]. A block is LANES × WAYS threads.
template <class A, class Terms>
__device__ void column_parts(Count rows, Count channels, Count rows_of_block, Terms terms, double *parts) {
    __shared__ double first[WAYS][LANES], second[WAYS][LANES];
    Count channel = (Count)blockIdx.x * LANES + threadIdx.x;
    Count start = (Count)blockIdx.y * rows_of_block, end = start + rows_of_block;
    if (end > rows) end = rows;
    double totals[2] = {0, 0};
    if (channel < channels) {
        for (Count row = start + threadIdx.y; row < end;) {
            A sums[2] = {0, 0};
            for (int k = 0; k < SHORT && row < end; k++, row += WAYS) terms(row * channels + channel, channel, sums);
            totals[0] += sums[0];
            totals[1] += sums[1];
        }
    }
    first[threadIdx.y][threadIdx.x] = totals[0];
    second[threadIdx.y][threadIdx.x] = totals[1];
    __syncthreads();
    if (threadIdx.y == 0 && channel < channels) {
        for (int way = 1; way < WAYS; way++) {
            totals[0] += first[way][threadIdx.x];
            totals[1] += second[way][threadIdx.x];
        }
        double *part = parts + (Count)blockIdx.y * 2 * channels + channel;
        part[0] = totals[0];
        part[channels] = totals[1];
    }
}

// Sums around the first row, so that a large mean does not cancel the variance.
template <class T, class A>
__device__ void moments_parts(Count rows, Count channels, Count rows_of_block, const T *x, double *parts) {
    auto terms = [=](Count i, Count channel, A *sums) {
        A d = get(x[i]) - get(x[channel]);
        sums[0] += d;
        sums[1] += d * d;
    };
    column_parts<A>(rows, channels, rows_of_block, terms, parts);
}

// Mean and biased variance: moments[2][channels].
template <class T, class A>
__device__ void moments_total(Count rows, Count channels, Count blocks, const T *x, const double *parts, A *moments) {
    for (Count channel = first_element(); channel < channels; channel += next_element()) {
        double sum = 0, square = 0;
        for (Count block = 0; block < blocks; block++) {
            sum += parts[block * 2 * channels + channel];
            square += parts[(block * 2 + 1) * channels + channel];
        }
        double n = (double)rows, variance = (square - sum * sum / n) / n;
        moments[channel] = (A)((double)get(x[channel]) + sum / n);
        moments[channels + channel] = (A)(variance > 0 ? variance : (variance <= 0 ? 0. : variance));
    }
}

// y = relu((x - mean) / sqrt(variance + eps) * gamma + beta + add); gamma_beta[2][channels].
template <class T, class A>
__device__ void normalise(Count count, Count channels, int has_add, int relu, double eps, const T *x, const A *moments,
                          const A *gamma_beta, const T *add, T *y) {
    Count channel = first_element() % channels;
    A scale = gamma_beta[channel] / sqrt(moments[channels + channel] + (A)eps);
    A mean = moments[channel], beta = gamma_beta[channels + channel];
    for (Count i = first_of_channel(count, channels); i < count; i += next_of_channel(channels)) {
        A v = (get(x[i]) - mean) * scale + beta;
        if (has_add) v += get(add[i]);
        y[i] = Put<T>::of(relu ? positive_part(v) : v);
    }
}

// Of the gradient g where the ReLU with result y let it pass: sum of g·(x − mean) / σ, and sum of g. Without
// moments only the latter.
template <class T, class A>
__device__ void gradient_parts(Count rows, Count channels, Count rows_of_block, int relu, int has_moments, double eps,
                               const T *g, const T *y, const T *x, const A *moments, double *parts) {
    // Of this thread's channel, as column_parts has it.
    Count own = (Count)blockIdx.x * LANES + threadIdx.x;
    bool normal = has_moments && own < channels;
    A mean = normal ? moments[own] : (A)0, inverse = normal ? (A)1 / sqrt(moments[channels + own] + (A)eps) : (A)0;
    auto terms = [=](Count i, Count, A *sums) {
        A d = relu ? stopped<A>(get(y[i]), get(g[i])) : get(g[i]);
        if (normal) sums[0] += d * (get(x[i]) - mean) * inverse;
        sums[1] += d;
    };
    column_parts<A>(rows, channels, rows_of_block, terms, parts);
}

// sums[2][channels].
template <class A> __device__ void total(Count channels, Count blocks, const double *parts, A *sums) {
    for (Count i = first_element(); i < 2 * channels; i += next_element()) {
        double sum = 0;
        for (Count block = 0; block < blocks; block++) sum += parts[block * 2 * channels + i];
        sums[i] = (A)sum;
    }
}

// dx = gamma / σ · (g − (Σg + x̂ Σ(g x̂)) / rows), or gamma / σ · g if the moments are constants.
template <class T, class A>
__device__ void normalise_backward(Count count, Count channels, int relu, int constant, double eps, const T *g, const T *y,
                                   const T *x, const A *moments, const A *gamma_beta, const A *sums, T *dx) {
    Count channel = first_element() % channels;
    A n = (A)(count / channels), inverse = (A)1 / sqrt(moments[channels + channel] + (A)eps);
    A mean = moments[channel], scale = gamma_beta[channel] * inverse;
    A sum = constant ? (A)0 : sums[channels + channel] / n, slope = constant ? (A)0 : sums[channel] / n;
    for (Count i = first_of_channel(count, channels); i < count; i += next_of_channel(channels)) {
        A d = relu ? stopped<A>(get(y[i]), get(g[i])) : get(g[i]);
        if (!constant) d -= sum + (get(x[i]) - mean) * inverse * slope;
        dx[i] = Put<T>::of(scale * d);
    }
}

// Windows of size × size; `places` is where in its window each maximum was. NaN wins over any number.
template <class T, class Count, class Signed>
__device__ void max_pool(Count count, Count channels, Count h, Count w, Count oh, Count ow, int size, int stride, int padding,
                         const T *x, T *y, unsigned int *places) {
    for (Count i = first_element(); i < count; i += next_element()) {
        Count channel = i % channels, column = i / channels % ow, row = i / channels / ow % oh, sample = i / channels / ow / oh;
        typename Arithmetic<T>::Type best = 0;
        int place = -1;
        for (int u = 0; u < size; u++) {
            for (int v = 0; v < size; v++) {
                Signed r = (Signed)(row * stride) + u - padding, c = (Signed)(column * stride) + v - padding;
                if (r < 0 || c < 0 || r >= (Signed)h || c >= (Signed)w) continue;
                typename Arithmetic<T>::Type value = get(x[((sample * h + r) * w + c) * channels + channel]);
                if (place < 0 || value > best || (value != value && best == best)) {
                    best = value;
                    place = u * size + v;
                }
            }
        }
        y[i] = Put<T>::of(best);
        places[i] = (unsigned int)place;
    }
}

// One thread gathers what the windows around an element of x give it.
template <class T, class Count, class Signed>
__device__ void max_pool_backward(Count count, Count channels, Count h, Count w, Count oh, Count ow, int size, int stride,
                                  int padding, const T *g, const unsigned int *places, T *dx) {
    for (Count i = first_element(); i < count; i += next_element()) {
        Count channel = i % channels, sample = i / channels / w / h;
        Signed column = i / channels % w + padding, row = i / channels / w % h + padding;
        typename Arithmetic<T>::Type sum = 0;
        for (int u = 0; u < size; u++) {
            if (row < u || (row - u) % stride || (row - u) / stride >= (Signed)oh) continue;
            for (int v = 0; v < size; v++) {
                if (column < v || (column - v) % stride || (column - v) / stride >= (Signed)ow) continue;
                Count from = ((sample * oh + (row - u) / stride) * ow + (column - v) / stride) * channels + channel;
                if (places[from] == (unsigned int)(u * size + v)) sum += get(g[from]);
            }
        }
        dx[i] = Put<T>::of(sum);
    }
}

// The patches that meet each result of a convolution, as rows of a matrix: [samples·oh·ow, kh·kw·channels].
template <class T, class Count, class Signed>
__device__ void patches(Count count, Count channels, Count h, Count w, Count oh, Count ow, int kh, int kw, int stride,
                        int padding, const T *x, T *columns) {
    for (Count i = first_element(); i < count; i += next_element()) {
        Count channel = i % channels, rest = i / channels;
        int v = rest % kw, u = rest / kw % kh;
        rest = rest / kw / kh;
        Signed c = (Signed)(rest % ow * stride) + v - padding, r = (Signed)(rest / ow % oh * stride) + u - padding;
        Count sample = rest / ow / oh;
        bool inside = r >= 0 && c >= 0 && r < (Signed)h && c < (Signed)w;
        columns[i] = inside ? x[((sample * h + r) * w + c) * channels + channel] : Put<T>::of(0.f);
    }
}

// Its adjoint: each element of x gathers what was made of it.
template <class T, class Count, class Signed>
__device__ void patches_adjoint(Count count, Count channels, Count h, Count w, Count oh, Count ow, int kh, int kw, int stride,
                                int padding, const T *columns, T *x) {
    for (Count i = first_element(); i < count; i += next_element()) {
        Count channel = i % channels, sample = i / channels / w / h;
        Signed column = i / channels % w + padding, row = i / channels / w % h + padding;
        typename Arithmetic<T>::Type sum = 0;
        for (int u = 0; u < kh; u++) {
            if (row < u || (row - u) % stride || (row - u) / stride >= (Signed)oh) continue;
            for (int v = 0; v < kw; v++) {
                if (column < v || (column - v) % stride || (column - v) / stride >= (Signed)ow) continue;
                Count result = (sample * oh + (row - u) / stride) * ow + (column - v) / stride;
                sum += get(columns[((result * kh + u) * kw + v) * channels + channel]);
            }
        }
        x[i] = Put<T>::of(sum);
    }
}

// Pairs (x[o][i], x[o][half + i]) become their maximum and minimum. NaN in either makes both NaN.
template <class T, class Count> __device__ void max_min(Count pairs, Count half, const T *x, T *y) {
    for (Count i = first_element(); i < pairs; i += next_element()) {
        Count one = i / half * 2 * half + i % half, other = one + half;
        typename Arithmetic<T>::Type a = get(x[one]), b = get(x[other]);
        bool first = a > b, numbers = first || a <= b;
        y[one] = Put<T>::of(!numbers ? a + b : first ? a : b);
        y[other] = Put<T>::of(!numbers ? a + b : first ? b : a);
    }
}

// On a tie each gets the mean of the two gradients.
template <class T, class Count> __device__ void max_min_backward(Count pairs, Count half, const T *x, const T *g, T *dx) {
    for (Count i = first_element(); i < pairs; i += next_element()) {
        Count one = i / half * 2 * half + i % half, other = one + half;
        typename Arithmetic<T>::Type a = get(x[one]), b = get(x[other]), max = get(g[one]), min = get(g[other]);
        typename Arithmetic<T>::Type mean = (max + min) / 2;
        dx[one] = Put<T>::of(a > b ? max : a < b ? min : mean);
        dx[other] = Put<T>::of(a > b ? min : a < b ? max : mean);
    }
}

// One parameter with its gradient and what the optimizer keeps of it.
template <class T> struct Slot {
    T *p;
    const T *g;
    T *m;
    T *v;
    Count count;
    double decay, shrink, rate, root;
};

const int PART = 4096;  // elements that a block updates

// The parameter that this block updates, and where it begins there; starts[slots + 1] counts blocks.
template <class T> __device__ Slot<T> slot_of_block(const Slot<T> *slots, const Count *starts, Count count, Count *from) {
    Count low = 0, high = count;
    while (high - low > 1) {
        Count middle = (low + high) / 2;
        if (starts[middle] <= blockIdx.x) low = middle;
        else high = middle;
    }
    *from = (blockIdx.x - starts[low]) * PART;
    return slots[low];
}

template <class T, class Update>
__device__ void update_each(const Slot<T> *slots, const Count *starts, Count count, Update update) {
    Count from;
    Slot<T> slot = slot_of_block(slots, starts, count, &from);
    Count end = from + PART < slot.count ? from + PART : slot.count;
    for (Count i = from + threadIdx.x; i < end; i += blockDim.x) update(slot, i);
}

// Without momentum p ← p − lr·d, d = scale·g + decay·p; with it m ← momentum·m + d first, and m instead of d, or
// d + momentum·m (Nesterov).
template <class T>
__device__ void sgd(const Slot<T> *slots, const Count *starts, Count count, double lr, double scale, double momentum,
                    int has_momentum, int nesterov) {
    update_each(slots, starts, count, [=](const Slot<T> &slot, Count i) {
        T d = (T)scale * slot.g[i] + (T)slot.decay * slot.p[i];
        if (has_momentum) {
            T m = (T)momentum * slot.m[i] + d;
            slot.m[i] = m;
            d = nesterov ? d + (T)momentum * m : m;
        }
        slot.p[i] -= (T)lr * d;
    });
}

// m ← m + (1 − β₁)(d − m), v ← β₂ v + (1 − β₂) d², p ← shrink·p − rate·m / (√v / root + eps).
template <class T>
__device__ void adam(const Slot<T> *slots, const Count *starts, Count count, double scale, double beta1, double beta2,
                     double eps) {
    update_each(slots, starts, count, [=](const Slot<T> &slot, Count i) {
        T p = slot.p[i], d = (T)scale * slot.g[i] + (T)slot.decay * p;
        T m = slot.m[i] + (T)(1. - beta1) * (d - slot.m[i]);
        T v = (T)beta2 * slot.v[i] + (T)(1. - beta2) * d * d;
        slot.m[i] = m;
        slot.v[i] = v;
        slot.p[i] = (T)slot.shrink * p - (T)slot.rate * m / (sqrt(v) / (T)slot.root + (T)eps);
    });
}

// The sum of squares of the gradient's elements that belong to each block.
template <class T> __device__ void squares(const Slot<T> *slots, const Count *starts, Count count, double *parts) {
    __shared__ double shared[1024];
    Count from;
    Slot<T> slot = slot_of_block(slots, starts, count, &from);
    Count end = from + PART < slot.count ? from + PART : slot.count;
    double sum = 0;
    for (Count i = from + threadIdx.x; i < end; i += blockDim.x) sum += (double)slot.g[i] * (double)slot.g[i];
    shared[threadIdx.x] = sum;
    __syncthreads();
    for (unsigned int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) parts[blockIdx.x] = shared[0];
}

#define OF_IMAGES(T, A, NAME)                                                                                                  \
    extern "C" __global__ void epilogue_##NAME(Count count, Count channels, int has_bias, int has_add, int relu, const T *x,   \
                                               const A *bias, const T *add, T *y) {                                            \
        epilogue<T, A>(count, channels, has_bias, has_add, relu, x, bias, add, y);                                             \
    }                                                                                                                          \
    extern "C" __global__ void stop_##NAME(Count count, const T *y, const T *g, T *result) { stop<T>(count, y, g, result); }   \
    extern "C" __global__ void moments_parts_##NAME(Count rows, Count channels, Count rows_of_block, const T *x,               \
                                                    double *parts) {                                                           \
        moments_parts<T, A>(rows, channels, rows_of_block, x, parts);                                                          \
    }                                                                                                                          \
    extern "C" __global__ void moments_total_##NAME(Count rows, Count channels, Count blocks, const T *x,                      \
                                                    const double *parts, A *moments) {                                         \
        moments_total<T, A>(rows, channels, blocks, x, parts, moments);                                                        \
    }                                                                                                                          \
    extern "C" __global__ void normalise_##NAME(Count count, Count channels, int has_add, int relu, double eps, const T *x,    \
                                                const A *moments, const A *gamma_beta, const T *add, T *y) {                   \
        normalise<T, A>(count, channels, has_add, relu, eps, x, moments, gamma_beta, add, y);                                  \
    }                                                                                                                          \
    extern "C" __global__ void gradient_parts_##NAME(Count rows, Count channels, Count rows_of_block, int relu,                \
                                                     int has_moments, double eps, const T *g, const T *y, const T *x,          \
                                                     const A *moments, double *parts) {                                        \
        gradient_parts<T, A>(rows, channels, rows_of_block, relu, has_moments, eps, g, y, x, moments, parts);                  \
    }                                                                                                                          \
    extern "C" __global__ void gradient_total_##NAME(Count channels, Count blocks, const double *parts, A *sums) {             \
        total<A>(channels, blocks, parts, sums);                                                                               \
    }                                                                                                                          \
    extern "C" __global__ void normalise_backward_##NAME(Count count, Count channels, int relu, int constant, double eps,      \
                                                         const T *g, const T *y, const T *x, const A *moments,                 \
                                                         const A *gamma_beta, const A *sums, T *dx) {                          \
        normalise_backward<T, A>(count, channels, relu, constant, eps, g, y, x, moments, gamma_beta, sums, dx);                \
    }                                                                                                                          \
    extern "C" __global__ void max_pool_##NAME(Count count, Count channels, Count h, Count w, Count oh, Count ow, int size,    \
                                               int stride, int padding, const T *x, T *y, unsigned int *places) {              \
        SHORT_OR_LONG(T, count / oh / ow * h * w, max_pool, count, channels, h, w, oh, ow, size, stride, padding, x, y,        \
                      places)                                                                                                  \
    }                                                                                                                          \
    extern "C" __global__ void max_pool_backward_##NAME(Count count, Count channels, Count h, Count w, Count oh, Count ow,     \
                                                        int size, int stride, int padding, const T *g,                         \
                                                        const unsigned int *places, T *dx) {                                   \
        SHORT_OR_LONG(T, count / h / w * oh * ow, max_pool_backward, count, channels, h, w, oh, ow, size, stride, padding, g,  \
                      places, dx)                                                                                              \
    }                                                                                                                          \
    extern "C" __global__ void patches_##NAME(Count count, Count channels, Count h, Count w, Count oh, Count ow, int kh,       \
                                              int kw, int stride, int padding, const T *x, T *columns) {                       \
        SHORT_OR_LONG(T, count / oh / ow / kh / kw * h * w, patches, count, channels, h, w, oh, ow, kh, kw, stride, padding,   \
                      x, columns)                                                                                              \
    }                                                                                                                          \
    extern "C" __global__ void patches_adjoint_##NAME(Count count, Count channels, Count h, Count w, Count oh, Count ow,       \
                                                      int kh, int kw, int stride, int padding, const T *columns, T *x) {       \
        SHORT_OR_LONG(T, count / h / w * oh * ow * kh * kw, patches_adjoint, count, channels, h, w, oh, ow, kh, kw, stride,    \
                      padding, columns, x)                                                                                     \
    }                                                                                                                          \
    extern "C" __global__ void max_min_##NAME(Count pairs, Count half, const T *x, T *y) {                                     \
        if (is_short(2 * pairs)) max_min<T, unsigned>(pairs, half, x, y);                                                      \
        else max_min<T, Count>(pairs, half, x, y);                                                                             \
    }                                                                                                                          \
    extern "C" __global__ void max_min_backward_##NAME(Count pairs, Count half, const T *x, const T *g, T *dx) {               \
        if (is_short(2 * pairs)) max_min_backward<T, unsigned>(pairs, half, x, g, dx);                                         \
        else max_min_backward<T, Count>(pairs, half, x, g, dx);                                                                \
    }

#define OF_PARAMETERS(T, NAME)                                                                                                 \
    extern "C" __global__ void sgd_##NAME(const Slot<T> *slots, const Count *starts, Count count, double lr, double scale,     \
                                          double momentum, int has_momentum, int nesterov) {                                   \
        sgd<T>(slots, starts, count, lr, scale, momentum, has_momentum, nesterov);                                             \
    }                                                                                                                          \
    extern "C" __global__ void adam_##NAME(const Slot<T> *slots, const Count *starts, Count count, double scale, double beta1, \
                                           double beta2, double eps) {                                                         \
        adam<T>(slots, starts, count, scale, beta1, beta2, eps);                                                               \
    }                                                                                                                          \
    extern "C" __global__ void squares_##NAME(const Slot<T> *slots, const Count *starts, Count count, double *parts) {         \
        squares<T>(slots, starts, count, parts);                                                                               \
    }

OF_IMAGES(float, float, f32)
OF_IMAGES(double, double, f64)
OF_IMAGES(__nv_bfloat16, float, bf16)
OF_PARAMETERS(float, f32)
OF_PARAMETERS(double, f64)
