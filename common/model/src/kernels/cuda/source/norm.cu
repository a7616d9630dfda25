// Group and layer norms. A group norm takes three launches, over the concatenation of what it reads:
//
//   operands ─► group_norm_sums: mean and squares of each channel of some pixels ─► group_norm_fold: of each group ─► group_norm_apply

// Grid: chunks of pixels, rows. A thread takes a channel, so that neighbours read neighbours.
//
// `partial`: `[rows, chunks, channels, 2]`, the mean and the sum of squared distances from it.
extern "C" __global__ void group_norm_sums(CONCATENATION_PARAMETERS, float* partial, int channels, int row_pixels, int chunk_pixels) {
    const Concatenation sources = CONCATENATION;
    const int row = blockIdx.y;
    const int first = blockIdx.x * chunk_pixels;
    const int count = min(chunk_pixels, row_pixels - first);
    float* sums = partial + ((long long)row * gridDim.x + blockIdx.x) * channels * 2;
    for (int channel = threadIdx.x; channel < channels; channel += blockDim.x) {
        // Distances from one of the values: sums of the values themselves would cancel where the mean is large.
        const float pivot = load(sources.at(row, first, channel));
        float sum = 0.0f, squares = 0.0f;
#pragma unroll 4
        for (int pixel = 1; pixel < count; pixel++) {
            const float distance = load(sources.at(row, first + pixel, channel)) - pivot;
            sum += distance;
            squares += distance * distance;
        }
        const float shift = sum / count;
        const float statistics[2] = {pivot + shift, fmaxf(squares - sum * shift, 0.0f)};
        store(sums + 2 * channel, statistics);
    }
}

// Grid: groups, rows. Joins what was summed apart (Chan, Golub and LeVeque 1983). Shared: a float for each warp.
//
// `statistics`: `[rows, groups, 2]`, the mean and the inverse of the deviation.
extern "C" __global__ void group_norm_fold(const float* partial, float* statistics, int channels, int row_pixels, int chunk_pixels,
                                           float epsilon) {
    SHARED(warps);
    const int group = blockIdx.x, groups = gridDim.x, row = blockIdx.y;
    const int group_channels = channels / groups;
    const int chunks = (row_pixels + chunk_pixels - 1) / chunk_pixels;
    const float* parts = partial + ((long long)row * chunks * channels + group * group_channels) * 2;
    const float all = (float)row_pixels * group_channels;
    const float pivot = load(parts);
    float sum = 0.0f;
    for (int part = threadIdx.x; part < chunks * group_channels; part += blockDim.x) {
        const int chunk = part / group_channels, channel = part % group_channels;
        const float count = min(chunk_pixels, row_pixels - chunk * chunk_pixels);
        sum += count * (load(parts + ((long long)chunk * channels + channel) * 2) - pivot);
    }
    const float mean = pivot + block_sum(sum, warps) / all;
    float squares = 0.0f;
    for (int part = threadIdx.x; part < chunks * group_channels; part += blockDim.x) {
        const int chunk = part / group_channels, channel = part % group_channels;
        const float count = min(chunk_pixels, row_pixels - chunk * chunk_pixels);
        float of_part[2];
        load(parts + ((long long)chunk * channels + channel) * 2, of_part);
        squares += of_part[1] + count * (of_part[0] - mean) * (of_part[0] - mean);
    }
    const float variance = block_sum(squares, warps) / all;
    if (threadIdx.x == 0) {
        const float of_group[2] = {mean, 1.0f / sqrtf(variance + epsilon)};
        store(statistics + ((long long)row * groups + group) * 2, of_group);
    }
}

template <int COUNT>
DEVICE void normalise_pixel(const Concatenation& sources, int row, int pixel, const float* statistics, const float* scale,
                            const float* shift, Element* target, int channels, int group_channels, int activation) {
    for (int channel = threadIdx.x * COUNT; channel < channels; channel += blockDim.x * COUNT) {
        float values[COUNT], scales[COUNT], shifts[COUNT], of_group[2];
        load(sources.at(row, pixel, channel), values);
        load(scale + channel, scales);
        load(shift + channel, shifts);
        // Divided once: that takes longer than all else that is done to an element.
        int group = channel / group_channels, left = (group + 1) * group_channels - channel;
        load(statistics + 2 * group, of_group);
#pragma unroll
        for (int index = 0; index < COUNT; index++) {
            if (left == 0) {
                group++;
                left = group_channels;
                load(statistics + 2 * group, of_group);
            }
            left--;
            const float normed = (values[index] - of_group[0]) * of_group[1];
            values[index] = activated(activation, normed * scales[index] + shifts[index]);
        }
        store(target + channel, values);
    }
}

// Grid: pixels of a row, rows.
extern "C" __global__ void group_norm_apply(CONCATENATION_PARAMETERS, const float* statistics, const float* scale, const float* shift,
                                            Element* target, int channels, int groups, int activation, int wide) {
    const Concatenation sources = CONCATENATION;
    const int pixel = blockIdx.x, row = blockIdx.y;
    const float* of_row = statistics + (long long)row * groups * 2;
    Element* normed = target + ((long long)row * gridDim.x + pixel) * channels;
    const int group_channels = channels / groups;
    if (wide) {
        normalise_pixel<WIDE>(sources, row, pixel, of_row, scale, shift, normed, channels, group_channels, activation);
    } else {
        normalise_pixel<1>(sources, row, pixel, of_row, scale, shift, normed, channels, group_channels, activation);
    }
}

// A pixel's channels, read once: vectors that a lane holds in registers, a warp's width apart.
template <int COUNT, int VECTORS>
struct HeldPixel {
    float values[VECTORS][COUNT];
    int channels;

    // The channel that a vector begins with; behind the last one there is none.
    DEVICE int channel(int vector) const { return (vector * WARP + threadIdx.x % WARP) * COUNT; }

    DEVICE void read(const Element* source) {
#pragma unroll
        for (int vector = 0; vector < VECTORS; vector++) {
            if (channel(vector) < channels) load(source + channel(vector), values[vector]);
        }
    }

    DEVICE float sum() const {
        float sum = 0.0f;
#pragma unroll
        for (int vector = 0; vector < VECTORS; vector++) {
            if (channel(vector) >= channels) break;
#pragma unroll
            for (int index = 0; index < COUNT; index++) sum += values[vector][index];
        }
        return warp_sum(sum);
    }

    // What is left when a mean is taken off, and its squares.
    DEVICE void centre(float mean, float& distances, float& squares) {
        distances = squares = 0.0f;
#pragma unroll
        for (int vector = 0; vector < VECTORS; vector++) {
            if (channel(vector) >= channels) break;
#pragma unroll
            for (int index = 0; index < COUNT; index++) {
                const float distance = values[vector][index] -= mean;
                distances += distance;
                squares += distance * distance;
            }
        }
        distances = warp_sum(distances);
        squares = warp_sum(squares);
    }

    DEVICE void write(float rounding, float inverse, const float* scale, const float* shift, Element* target) const {
#pragma unroll
        for (int vector = 0; vector < VECTORS; vector++) {
            if (channel(vector) >= channels) break;
            float normed[COUNT], scales[COUNT], shifts[COUNT];
            load(scale + channel(vector), scales);
            load(shift + channel(vector), shifts);
#pragma unroll
            for (int index = 0; index < COUNT; index++) {
                normed[index] = (values[vector][index] - rounding) * inverse * scales[index] + shifts[index];
            }
            store(target + channel(vector), normed);
        }
    }
};

// Vectors of a lane for the widest pixel that is held: 1280 channels in 16 bits.
constexpr int HELD_VECTORS = 5;

template <int COUNT>
DEVICE void layer_norm_held(const Element* source, const float* scale, const float* shift, Element* target, int channels, float epsilon) {
    HeldPixel<COUNT, HELD_VECTORS> pixel;
    pixel.channels = channels;
    pixel.read(source);
    const float mean = pixel.sum() / channels;
    float distances, squares;
    pixel.centre(mean, distances, squares);
    // What the rounding of the mean is worth: all of the variance where the mean is large.
    const float rounding = distances / channels;
    const float variance = fmaxf(squares / channels - rounding * rounding, 0.0f);
    pixel.write(rounding, 1.0f / sqrtf(variance + epsilon), scale, shift, target);
}

// For wider pixels and those that are no whole vectors: they are read three times.
DEVICE void layer_norm_reread(const Element* values, const float* scale, const float* shift, Element* target, int channels,
                              float epsilon) {
    const int lane = threadIdx.x % WARP;
    float sum = 0.0f;
    for (int channel = lane; channel < channels; channel += WARP) sum += load(values + channel);
    const float mean = warp_sum(sum) / channels;
    float distances = 0.0f, squares = 0.0f;
    for (int channel = lane; channel < channels; channel += WARP) {
        const float distance = load(values + channel) - mean;
        distances += distance;
        squares += distance * distance;
    }
    const float rounding = warp_sum(distances) / channels;
    const float variance = fmaxf(warp_sum(squares) / channels - rounding * rounding, 0.0f);
    const float inverse = 1.0f / sqrtf(variance + epsilon);
    for (int channel = lane; channel < channels; channel += WARP) {
        const float normed = (load(values + channel) - mean - rounding) * inverse;
        store(target + channel, normed * load(scale + channel) + load(shift + channel));
    }
}

// Grid: blocks of as many pixels as there are warps; a warp takes a pixel.
extern "C" __global__ void layer_norm(const Element* source, const float* scale, const float* shift, Element* target, int channels,
                                      int pixels, float epsilon, int wide) {
    const long long pixel = (long long)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    // A whole warp leaves, and there is no barrier of the block.
    if (pixel >= pixels) return;
    const Element* values = source + pixel * channels;
    Element* normed = target + pixel * channels;
    if (wide && channels <= HELD_VECTORS * WARP * WIDE) {
        layer_norm_held<WIDE>(values, scale, shift, normed, channels, epsilon);
    } else {
        layer_norm_reread(values, scale, shift, normed, channels, epsilon);
    }
}
