// `sums[m, n] = left[m, k] * right[k, n]` in f32, of operands in any of the types, by tiles that stay in registers and caches.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace product {

// Numbers of `cudaDataType_t`.
enum Type : int { F32 = 0, F16 = 2, BF16 = 14 };

inline size_t bytes_of(int type) { return type == F32 ? 4 : 2; }

inline float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

inline uint32_t to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

inline float load_f16(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    // Infinity and NaN keep the largest exponent; what is below normal numbers is a multiple of 2^-24.
    if (rest >= 0x7c00) return from_bits(sign | 0x7f800000 | rest << 13);
    if (rest < 0x0400) return from_bits(sign | to_bits((float)rest * 0x1p-24f));
    return from_bits(sign | ((rest << 13) + (112u << 23)));
}

// To the nearest, to the even one of two.
inline uint16_t store_f16(float value) {
    const uint32_t bits = to_bits(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    // From half of the last digit above the largest number on.
    if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    // The last digit of one half is 2^-24, the smallest of the numbers that there are.
    if (rest < 0x38800000) return (uint16_t)(sign | (to_bits(from_bits(rest) + 0.5f) - to_bits(0.5f)));
    return (uint16_t)(sign | (rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >> 13);
}

inline uint16_t store_bf16(float value) {
    const uint32_t bits = to_bits(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float load(const void* elements, int type, int64_t index) {
    if (type == F32) return static_cast<const float*>(elements)[index];
    const uint16_t bits = static_cast<const uint16_t*>(elements)[index];
    return type == F16 ? load_f16(bits) : from_bits((uint32_t)bits << 16);
}

inline void store(void* elements, int type, int64_t index, float value) {
    if (type == F32) {
        static_cast<float*>(elements)[index] = value;
    } else {
        static_cast<uint16_t*>(elements)[index] = type == F16 ? store_f16(value) : store_bf16(value);
    }
}

// A matrix by its first element and the distances, in elements, of neighbours along its outer axis (m or n) and along k.
struct Operand {
    const void* elements;
    int type;
    int64_t outer_step, k_step;
};

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4)));

// A tile in registers: 6 by 2 vectors are twelve sums, and leave some for operands.
constexpr int ROWS = 6, VECTORS = 2, COLUMNS = VECTORS * LANES;
// A tile in caches, whose operands are converted and laid out once.
constexpr int TILE_ROWS = 16 * ROWS, TILE_COLUMNS = 4 * COLUMNS, DEPTH = 256;

template <typename Load>
void pack_as(Load load, const Operand& from, int64_t first, int count, int64_t first_k, int depth, int width, float* to) {
    for (int begin = 0; begin < count; begin += width) {
        for (int outer = 0; outer < width; outer++) {
            for (int k = 0; k < depth; k++) {
                const bool is_inside = begin + outer < count;
                const int64_t index = (first + begin + outer) * from.outer_step + (first_k + k) * from.k_step;
                to[(int64_t)k * width + outer] = is_inside ? load(index) : 0.0f;
            }
        }
        to += (int64_t)depth * width;
    }
}

// Panels of `width` along the outer axis, each `[depth, width]`, with zeros behind the last.
inline void pack(const Operand& from, int64_t first, int count, int64_t first_k, int depth, int width, float* to) {
    const auto* halves = static_cast<const uint16_t*>(from.elements);
    const auto* floats = static_cast<const float*>(from.elements);
    const auto load_float = [floats](int64_t index) { return floats[index]; };
    const auto load_bf16 = [halves](int64_t index) { return from_bits((uint32_t)halves[index] << 16); };
    const auto load_half = [halves](int64_t index) { return load_f16(halves[index]); };
    if (from.type == F32) {
        pack_as(load_float, from, first, count, first_k, depth, width, to);
    } else if (from.type == BF16) {
        pack_as(load_bf16, from, first, count, first_k, depth, width, to);
    } else {
        pack_as(load_half, from, first, count, first_k, depth, width, to);
    }
}

// Adds to `[ROWS, COLUMNS]` of the sums.
inline void add_tile(const float* left, const float* right, int depth, float* sums) {
    Vector tile[ROWS][VECTORS] = {};
    for (int k = 0; k < depth; k++, left += ROWS, right += COLUMNS) {
        Vector columns[VECTORS];
        memcpy(columns, right, sizeof(columns));
#pragma GCC unroll 6
        for (int row = 0; row < ROWS; row++) {
#pragma GCC unroll 2
            for (int vector = 0; vector < VECTORS; vector++) tile[row][vector] += left[row] * columns[vector];
        }
    }
    for (int row = 0; row < ROWS; row++) {
        for (int column = 0; column < COLUMNS; column++) sums[row * TILE_COLUMNS + column] += tile[row][column / LANES][column % LANES];
    }
}

// `[TILE_ROWS, TILE_COLUMNS]` of the sums, from a row and a column on.
inline const float* sums_of(const Operand& left, const Operand& right, int64_t k, int64_t row, int rows, int64_t column, int columns) {
    static thread_local std::vector<float> sums, of_left, of_right;
    sums.assign((size_t)TILE_ROWS * TILE_COLUMNS, 0.0f);
    of_left.resize((size_t)TILE_ROWS * DEPTH);
    of_right.resize((size_t)TILE_COLUMNS * DEPTH);
    for (int64_t first = 0; first < k; first += DEPTH) {
        const int depth = (int)std::min<int64_t>(DEPTH, k - first);
        pack(left, row, rows, first, depth, ROWS, of_left.data());
        pack(right, column, columns, first, depth, COLUMNS, of_right.data());
        for (int j = 0; j < columns; j += COLUMNS) {
            for (int i = 0; i < rows; i += ROWS) {
                add_tile(of_left.data() + (int64_t)i * depth, of_right.data() + (int64_t)j * depth, depth, &sums[(size_t)i * TILE_COLUMNS + j]);
            }
        }
    }
    return sums.data();
}

}  // namespace product
