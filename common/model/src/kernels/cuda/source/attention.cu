// Attention with a running softmax (arXiv 2205.14135): scores are never written to memory.
//
// A block takes QUERIES queries of one head, a warp QUERIES_OF_WARP of them. For each tile of KEYS keys, a lane computes the scores of one
// key; then the lanes take channels and sum the values. Keys and values come to shared memory CHUNK channels at a time, so that any width
// has room. `shared_floats` of the lowering says how much that is.

constexpr int QUERIES_OF_WARP = 4;
constexpr int WARPS = 4;
constexpr int QUERIES = WARPS * QUERIES_OF_WARP;
constexpr int KEYS = WARP;
constexpr int CHUNK = 64;
// Four more than a chunk, so that lanes that read four channels of neighbouring keys meet different banks.
constexpr int TILE_STRIDE = CHUNK + 4;

struct AttentionShape {
    int queries, keys, width, causal;
    float scale;
};

// Tokens from `first` on, one `stride` behind the other; zeros behind the last token and the last channel.
struct Tokens {
    const Element* elements;
    int stride, count;

    DEVICE float at(int token, int channel, int width) const {
        if (token >= count || channel >= width) return 0.0f;
        return load(elements + (long long)token * stride + channel);
    }
};

// `[KEYS, TILE_STRIDE]` from a token and a channel on.
DEVICE void load_tile(const Tokens& tokens, int first_token, int first_channel, int width, float* tile) {
    __syncthreads();
    for (int index = threadIdx.x; index < KEYS * CHUNK; index += blockDim.x) {
        const int token = index / CHUNK, channel = index % CHUNK;
        tile[token * TILE_STRIDE + channel] = tokens.at(first_token + token, first_channel + channel, width);
    }
    __syncthreads();
}

// Adds to the scores of a lane's key what `channels` channels, a multiple of four, make of it.
//
// `query`: `[QUERIES_OF_WARP, query_stride]`, `key`: the channels of the lane's key
DEVICE void add_scores(const float* query, int query_stride, const float* key, int channels, float (&scores)[QUERIES_OF_WARP]) {
    for (int channel = 0; channel < channels; channel += 4) {
        const float4 of_key = *reinterpret_cast<const float4*>(key + channel);
#pragma unroll
        for (int index = 0; index < QUERIES_OF_WARP; index++) {
            const float4 of_query = *reinterpret_cast<const float4*>(query + index * query_stride + channel);
            scores[index] += of_query.x * of_key.x + of_query.y * of_key.y + of_query.z * of_key.z + of_query.w * of_key.w;
        }
    }
}

// Adds the values of a tile's channels, a half of them for each of two slices, as the weights say.
//
// `weights`: `[KEYS, QUERIES_OF_WARP]`
template <int SLICES>
DEVICE void add_values(const float* weights, const float* tile, int slice, float (&sums)[QUERIES_OF_WARP][SLICES]) {
    const int lane = threadIdx.x % WARP;
    for (int token = 0; token < KEYS; token++) {
        const float4 weight = *reinterpret_cast<const float4*>(weights + token * QUERIES_OF_WARP);
        const float of_queries[QUERIES_OF_WARP] = {weight.x, weight.y, weight.z, weight.w};
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float of_value = tile[token * TILE_STRIDE + half * WARP + lane];
#pragma unroll
            for (int index = 0; index < QUERIES_OF_WARP; index++) sums[index][slice + half] += of_queries[index] * of_value;
        }
    }
}

// One head's attention. SLICES: how many channels a lane sums, 32 apart, at most.
template <int SLICES>
DEVICE void attend(const Tokens& query, const Tokens& key, const Tokens& value, Element* target, int target_stride,
                   const AttentionShape& shape) {
    SHARED(tile);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int first_query = blockIdx.x * QUERIES;
    const int padded_width = (shape.width + CHUNK - 1) / CHUNK * CHUNK;
    float* all_queries = tile + KEYS * TILE_STRIDE;
    // Of this warp: `[QUERIES_OF_WARP, padded_width]`, and `[KEYS, QUERIES_OF_WARP]`.
    float* queries = all_queries + warp * QUERIES_OF_WARP * padded_width;
    float* weights = all_queries + QUERIES * padded_width + warp * KEYS * QUERIES_OF_WARP;
    for (int index = threadIdx.x; index < QUERIES * padded_width; index += blockDim.x) {
        const int token = index / padded_width, channel = index % padded_width;
        all_queries[index] = query.at(first_query + token, channel, shape.width) * shape.scale;
    }

    float sums[QUERIES_OF_WARP][SLICES] = {};
    float largest[QUERIES_OF_WARP], totals[QUERIES_OF_WARP] = {};
#pragma unroll
    for (int index = 0; index < QUERIES_OF_WARP; index++) largest[index] = __uint_as_float(0xff800000u);
    // No query of the block sees a key behind its last one.
    const int keys = shape.causal ? min(shape.keys, first_query + QUERIES) : shape.keys;
    for (int first_key = 0; first_key < keys; first_key += KEYS) {
        float scores[QUERIES_OF_WARP] = {};
        for (int channel = 0; channel < shape.width; channel += CHUNK) {
            load_tile(key, first_key, channel, shape.width, tile);
            const int channels = min(CHUNK, (shape.width - channel + 3) / 4 * 4);
            add_scores(queries + channel, padded_width, tile + lane * TILE_STRIDE, channels, scores);
        }
#pragma unroll
        for (int index = 0; index < QUERIES_OF_WARP; index++) {
            const int last_key = shape.causal ? first_query + warp * QUERIES_OF_WARP + index : shape.keys - 1;
            const bool visible = first_key + lane <= min(last_key, shape.keys - 1);
            const float score = visible ? scores[index] : __uint_as_float(0xff800000u);
            // The first tile has a visible key for every query, so the largest score is a number from then on.
            const float larger = fmaxf(largest[index], warp_max(score));
            const float weight = expf(score - larger), correction = expf(largest[index] - larger);
            largest[index] = larger;
            totals[index] = totals[index] * correction + warp_sum(weight);
            weights[lane * QUERIES_OF_WARP + index] = weight;
#pragma unroll
            for (int slice = 0; slice < SLICES; slice++) sums[index][slice] *= correction;
        }
        // The barriers of `load_tile` are also between what a lane writes to `weights` and what the others read.
#pragma unroll
        for (int slice = 0; slice < SLICES; slice += 2) {
            if (slice * WARP >= shape.width) break;
            load_tile(value, first_key, slice * WARP, shape.width, tile);
            add_values(weights, tile, slice, sums);
        }
    }

#pragma unroll
    for (int index = 0; index < QUERIES_OF_WARP; index++) {
        const int token = first_query + warp * QUERIES_OF_WARP + index;
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            const int channel = slice * WARP + lane;
            if (token < shape.queries && channel < shape.width) {
                store(target + (long long)token * target_stride + channel, sums[index][slice] / totals[index]);
            }
        }
    }
}

// Grid: tiles of queries, heads, rows. Operands: `[rows, tokens, stride]`, from the first head's first channel on; `*_row_tokens` is 0
// where one row counts for all.
#define ATTENTION(name, attend, warps)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(warps* WARP)                                                                       \
        name(const Element* query, int query_stride, int query_row_tokens, const Element* key, int key_stride, int key_row_tokens, \
             const Element* value, int value_stride, int value_row_tokens, Element* target, int queries, int keys, int width,      \
             int causal, float scale) {                                                                                             \
        const int head = blockIdx.y, row = blockIdx.z, target_stride = gridDim.y * width;                                           \
        const Operand operands[3] = {{query, query_stride, query_row_tokens},                                                       \
                                     {key, key_stride, key_row_tokens},                                                             \
                                     {value, value_stride, value_row_tokens}};                                                      \
        const Tokens of_query = {operands[0].at(row, 0, head * width), query_stride, queries};                                      \
        const Tokens of_key = {operands[1].at(row, 0, head * width), key_stride, keys};                                             \
        const Tokens of_value = {operands[2].at(row, 0, head * width), value_stride, keys};                                         \
        Element* of_target = target + (long long)row * queries * target_stride + head * width;                                     \
        attend(of_query, of_key, of_value, of_target, target_stride, AttentionShape{queries, keys, width, causal, scale}); \
    }

ATTENTION(attention_64, attend<2>, WARPS)
ATTENTION(attention_128, attend<4>, WARPS)
ATTENTION(attention_256, attend<8>, WARPS)
ATTENTION(attention_512, attend<16>, WARPS)
