// What all kernels share: elements of the format as floats, pointers into concatenations, activation functions, sums over threads.
//
// The sources are one translation unit for NVRTC and include no header of CUDA's or C's. The emulator of the tests compiles the same as
// C++: it defines EMULATED, and what CUDA would. Sums are f32. Offsets of elements are 64-bit; pixels and channels are counted in 32.

#ifndef EMULATED
// Every access to global memory goes through `load` and `store`, so that the emulator can check it.
#define CHECK_LOAD(pointer, bytes)
#define CHECK_STORE(pointer, bytes)
// All shared memory is dynamic: a launch says how much there is.
extern __shared__ __align__(16) float shared_all[];
#define SHARED(name) float* name = shared_all
#endif

#define DEVICE __device__ __forceinline__

// IEEE half precision.
struct Half {
    unsigned short bits;
};

#if defined(ELEMENT_BF16)
// The upper half of an f32.
typedef unsigned short Element;
#elif defined(ELEMENT_F16)
typedef Half Element;
#else
typedef float Element;
#endif

// Elements of a vector of 16 bytes, the most that a thread loads at once.
constexpr int WIDE = 16 / (int)sizeof(Element);

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

DEVICE float as_float(float element) { return element; }

DEVICE float as_float(unsigned short element) { return __uint_as_float((unsigned)element << 16); }

DEVICE void from_float(float value, float& element) { element = value; }

// To the nearest, to the even one of two; what is no number stays none.
DEVICE void from_float(float value, unsigned short& element) {
    const unsigned bits = __float_as_uint(value);
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    element = (unsigned short)(is_nan ? (bits >> 16) | 0x40u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#ifdef EMULATED
DEVICE float as_float(Half element) { return emulator::float_of_half(element.bits); }

DEVICE void from_float(float value, Half& element) { element.bits = emulator::half_of_float(value); }
#else
// By the GPU's own instructions, which CUDA's header for this type wraps too.
DEVICE float as_float(Half element) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(element.bits));
    return value;
}

// To the nearest, to the even one of two; what is too large becomes infinite.
DEVICE void from_float(float value, Half& element) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(element.bits) : "f"(value)); }
#endif

// Neighbours that are loaded and stored at once.
template <typename T, int COUNT>
struct alignas(sizeof(T) * COUNT) Neighbours {
    T elements[COUNT];
};

template <int COUNT, typename T>
DEVICE void load(const T* source, float (&values)[COUNT]) {
    CHECK_LOAD(source, sizeof(T) * COUNT);
    const Neighbours<T, COUNT> neighbours = *reinterpret_cast<const Neighbours<T, COUNT>*>(source);
#pragma unroll
    for (int index = 0; index < COUNT; index++) values[index] = as_float(neighbours.elements[index]);
}

template <typename T>
DEVICE float load(const T* source) {
    float values[1];
    load(source, values);
    return values[0];
}

template <int COUNT, typename T>
DEVICE void store(T* target, const float (&values)[COUNT]) {
    CHECK_STORE(target, sizeof(T) * COUNT);
    Neighbours<T, COUNT> neighbours;
#pragma unroll
    for (int index = 0; index < COUNT; index++) from_float(values[index], neighbours.elements[index]);
    *reinterpret_cast<Neighbours<T, COUNT>*>(target) = neighbours;
}

template <typename T>
DEVICE void store(T* target, float value) {
    const float values[1] = {value};
    store(target, values);
}

// An operand `[rows, row_pixels, channels]`; `row_pixels` is 0 where one row counts for all.
struct Operand {
    const Element* elements;
    int channels;
    int row_pixels;

    DEVICE const Element* at(int row, int pixel, int channel) const {
        return elements + ((long long)row * row_pixels + pixel) * channels + channel;
    }
};

// Up to four operands side by side along the channels; those that are absent have no channels.
struct Concatenation {
    Operand sources[4];

    DEVICE const Element* at(int row, int pixel, int channel) const {
#pragma unroll
        for (int index = 0; index < 3; index++) {
            if (channel < sources[index].channels) return sources[index].at(row, pixel, channel);
            channel -= sources[index].channels;
        }
        return sources[3].at(row, pixel, channel);
    }
};

// The parameters that a concatenation is given by, and the concatenation.
#define CONCATENATION_PARAMETERS                                                                                                     \
    const Element *elements_0, int channels_0, int row_pixels_0, const Element *elements_1, int channels_1, int row_pixels_1,      \
        const Element *elements_2, int channels_2, int row_pixels_2, const Element *elements_3, int channels_3, int row_pixels_3
#define CONCATENATION                                                                                  \
    Concatenation {                                                                                    \
        {                                                                                              \
            {elements_0, channels_0, row_pixels_0}, {elements_1, channels_1, row_pixels_1},            \
                {elements_2, channels_2, row_pixels_2}, {elements_3, channels_3, row_pixels_3},        \
        }                                                                                              \
    }

// Numbers of activation functions; the lowering gives the same ones.
constexpr int GELU = 1;
constexpr int QUICK_GELU = 2;
constexpr int SILU = 3;
constexpr int GEGLU = 4;

// With the exact error function.
DEVICE float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }

DEVICE float activated(int activation, float x) {
    switch (activation) {
        case GELU:
            return gelu(x);
        case QUICK_GELU:
            return x / (1.0f + expf(-1.702f * x));
        case SILU:
            return x / (1.0f + expf(-x));
        default:
            return x;
    }
}

// An emulation to which each exchange is dear brings its own.
#ifndef WARP_SUMS
DEVICE float warp_sum(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

DEVICE float warp_max(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}
#endif

// `partial`: shared, one for each warp. All threads of the block are given the sum.
DEVICE float block_sum(float value, float* partial) {
    const int warps = blockDim.x / WARP;
    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = value;
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < warps; warp++) sum += partial[warp];
    return sum;
}
