// Attention with a running softmax by tiles (arXiv 2205.14135, 2307.08691): for heads of at most 160 channels in 16-bit elements, all of whose
// offsets are whole vectors.
//
// A warp takes 16 queries and keeps them, their sums and the scores of a tile of keys in registers. While a tile of keys and values is
// multiplied the next one is copied to shared memory. `tiles` of the lowering says how much that is.

#if defined(ELEMENT_BF16) || defined(ELEMENT_F16)

constexpr int TILE_WARPS = 4;
constexpr int QUERIES_OF_TILE = 16;
constexpr int TILE_QUERIES = TILE_WARPS * QUERIES_OF_TILE;
// Behind each token's channels, so that eight tokens' lines begin in different banks.
constexpr int LINE_PADDING = 8;

// Two neighbours of a token, or zeros.
DEVICE unsigned load_pair(const Tokens& tokens, int token, int channel, int width) {
    if (token >= tokens.count || channel >= width) return 0;
    const Element* pair = tokens.elements + (long long)token * tokens.stride + channel;
    CHECK_LOAD(pair, 4);
    return *reinterpret_cast<const unsigned*>(pair);
}

// Begins to copy `KEYS_OF_TILE` tokens, zeros behind the last token and channel.
template <int WIDTH, int KEYS_OF_TILE>
DEVICE void copy_tokens(const Tokens& tokens, int first, int width, Element* target) {
    constexpr int VECTORS = WIDTH / WIDE;
#pragma unroll
    for (int index = threadIdx.x; index < KEYS_OF_TILE * VECTORS; index += TILE_WARPS * WARP) {
        const int token = index / VECTORS, channel = index % VECTORS * WIDE;
        const bool is_there = first + token < tokens.count && channel < width;
        const Element* source = tokens.elements + (is_there ? (long long)(first + token) * tokens.stride + channel : 0);
        copy_begin(target + token * (WIDTH + LINE_PADDING) + channel, source, is_there);
    }
}

// The largest or the sum over the four lanes that share a row.
DEVICE float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

DEVICE float quad_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

// scores[16, KEYS_OF_TILE] = queries * keys^T
template <int WIDTH, int KEYS_OF_TILE>
DEVICE void multiply_keys(const unsigned (&queries)[WIDTH / 16][4], const Element* keys, float (&scores)[KEYS_OF_TILE / 8][4]) {
    const int lane = threadIdx.x % WARP;
    // Tiles of a load: eight keys, both halves of 16 channels; the next eight keys.
    const Element* line = keys + (lane / 16 * 8 + lane % 8) * (WIDTH + LINE_PADDING) + lane / 8 % 2 * 8;
#pragma unroll
    for (int tile = 0; tile < KEYS_OF_TILE / 8; tile++) {
#pragma unroll
        for (int index = 0; index < 4; index++) scores[tile][index] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < WIDTH / 16; step++) {
#pragma unroll
        for (int tile = 0; tile < KEYS_OF_TILE / 8; tile += 2) {
            unsigned of_keys[4];
            load_tiles(line + tile * 8 * (WIDTH + LINE_PADDING) + step * 16, of_keys);
            multiply_tiles(scores[tile], queries[step], of_keys[0], of_keys[1]);
            multiply_tiles(scores[tile + 1], queries[step], of_keys[2], of_keys[3]);
        }
    }
}

// sums[16, WIDTH] += weights * values
template <int WIDTH, int KEYS_OF_TILE>
DEVICE void add_tile_values(const float (&weights)[KEYS_OF_TILE / 8][4], const Element* values, float (&sums)[WIDTH / 8][4]) {
    const int lane = threadIdx.x % WARP;
    // Tiles of a load: both halves of 16 keys, eight channels; the next eight channels.
    const Element* line = values + lane % 16 * (WIDTH + LINE_PADDING) + lane / 16 * 8;
#pragma unroll
    for (int step = 0; step < KEYS_OF_TILE / 16; step++) {
        const float (&first)[4] = weights[2 * step], (&second)[4] = weights[2 * step + 1];
        const unsigned left[4] = {pair_of(first[0], first[1]), pair_of(first[2], first[3]), pair_of(second[0], second[1]),
                                  pair_of(second[2], second[3])};
#pragma unroll
        for (int tile = 0; tile < WIDTH / 8; tile += 2) {
            unsigned of_values[4];
            load_tiles_turned(line + step * 16 * (WIDTH + LINE_PADDING) + tile * 8, of_values);
            multiply_tiles(sums[tile], left, of_values[0], of_values[1]);
            multiply_tiles(sums[tile + 1], left, of_values[2], of_values[3]);
        }
    }
}

// The state of a running softmax of a lane's two rows. Weights are powers of two: `scale` has the factor from those of e, and is applied in the
// same instruction that takes the largest score off.
struct RunningSoftmax {
    float scale;
    float largest[2], totals[2];

    // From scores to weights.
    template <int TILES, int SUM_TILES>
    DEVICE void weigh(float (&scores)[TILES][4], float (&sums)[SUM_TILES][4]) {
#pragma unroll
        for (int row = 0; row < 2; row++) {
            float larger = largest[row];
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) larger = fmaxf(larger, fmaxf(scores[tile][2 * row], scores[tile][2 * row + 1]));
            // The first tile has a visible key for every query, so this is a number from then on.
            larger = quad_max(larger);
            const float correction = power_of_two((largest[row] - larger) * scale), taken_off = larger * scale;
            largest[row] = larger;
            totals[row] *= correction;
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
                for (int index = 2 * row; index < 2 * row + 2; index++) {
                    scores[tile][index] = power_of_two(scores[tile][index] * scale - taken_off);
                    totals[row] += scores[tile][index];
                }
            }
#pragma unroll
            for (int tile = 0; tile < SUM_TILES; tile++) {
                sums[tile][2 * row] *= correction;
                sums[tile][2 * row + 1] *= correction;
            }
        }
    }
};

// Keys from `visible[row]` on are none of the row's.
template <int TILES>
DEVICE void hide_keys(float (&scores)[TILES][4], int first_key, const int (&visible)[2]) {
    const int first = first_key + threadIdx.x % 4 * 2;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int index = 0; index < 4; index++) {
            if (first + tile * 8 + index % 2 >= visible[index / 2]) scores[tile][index] = __uint_as_float(0xff800000u);
        }
    }
}

// One head's attention. WIDTH: its channels, rounded up.
template <int WIDTH, int KEYS_OF_TILE>
DEVICE void attend_by_tiles(const Tokens& query, const Tokens& key, const Tokens& value, Element* target, int target_stride,
                            const AttentionShape& shape) {
    SHARED(all);
    constexpr int TILE = KEYS_OF_TILE * (WIDTH + LINE_PADDING);
    Element* tiles = reinterpret_cast<Element*>(all);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int first_row = blockIdx.x * TILE_QUERIES + warp * QUERIES_OF_TILE + lane / 4;
    unsigned queries[WIDTH / 16][4];
#pragma unroll
    for (int step = 0; step < WIDTH / 16; step++) {
#pragma unroll
        for (int index = 0; index < 4; index++) {
            const int channel = step * 16 + index / 2 * 8 + lane % 4 * 2;
            queries[step][index] = load_pair(query, first_row + index % 2 * 8, channel, shape.width);
        }
    }
    float sums[WIDTH / 8][4] = {};
    RunningSoftmax softmax = {shape.scale * 1.44269504f, {__uint_as_float(0xff800000u), __uint_as_float(0xff800000u)}, {0.0f, 0.0f}};
    int visible[2];
#pragma unroll
    for (int row = 0; row < 2; row++) visible[row] = shape.causal ? min(shape.keys, first_row + row * 8 + 1) : shape.keys;
    // No query of the block sees a key behind its last one.
    const int keys = shape.causal ? min(shape.keys, (int)(blockIdx.x + 1) * TILE_QUERIES) : shape.keys;
    copy_tokens<WIDTH, KEYS_OF_TILE>(key, 0, shape.width, tiles);
    copy_tokens<WIDTH, KEYS_OF_TILE>(value, 0, shape.width, tiles + TILE);
    copies_are_a_group();
    for (int first_key = 0, stage = 0; first_key < keys; first_key += KEYS_OF_TILE, stage ^= 1) {
        const Element* of_stage = tiles + stage * 2 * TILE;
        Element* next = tiles + (stage ^ 1) * 2 * TILE;
        if (first_key + KEYS_OF_TILE < keys) {
            copy_tokens<WIDTH, KEYS_OF_TILE>(key, first_key + KEYS_OF_TILE, shape.width, next);
            copy_tokens<WIDTH, KEYS_OF_TILE>(value, first_key + KEYS_OF_TILE, shape.width, next + TILE);
        }
        // An empty group, where there is no next tile.
        copies_are_a_group();
        wait_for_copies<1>();
        __syncthreads();
        float scores[KEYS_OF_TILE / 8][4];
        multiply_keys<WIDTH, KEYS_OF_TILE>(queries, of_stage, scores);
        // The second row sees no less than the first.
        if (first_key + KEYS_OF_TILE > visible[0]) hide_keys(scores, first_key, visible);
        softmax.weigh(scores, sums);
        add_tile_values<WIDTH, KEYS_OF_TILE>(scores, of_stage + TILE, sums);
        // The stage is copied to in the next round.
        __syncthreads();
    }
#pragma unroll
    for (int row = 0; row < 2; row++) {
        const int token = first_row + row * 8;
        const float inverse = 1.0f / quad_sum(softmax.totals[row]);
#pragma unroll
        for (int tile = 0; tile < WIDTH / 8; tile++) {
            const int channel = tile * 8 + lane % 4 * 2;
            const float values[2] = {sums[tile][2 * row] * inverse, sums[tile][2 * row + 1] * inverse};
            if (token < shape.queries && channel < shape.width) store(target + (long long)token * target_stride + channel, values);
        }
    }
}

ATTENTION(attention_tiles_64, (attend_by_tiles<64, 64>), TILE_WARPS)
ATTENTION(attention_tiles_128, (attend_by_tiles<128, 32>), TILE_WARPS)
ATTENTION(attention_tiles_160, (attend_by_tiles<160, 32>), TILE_WARPS)

#endif
