// What lies before and behind the product of a convolution or a linear layer.

// Where a convolution's windows lie in its sources.
struct Windows {
    // Height and width of the sources, and of what they are upsampled to by nearest neighbour.
    int height, width, upsampled_height, upsampled_width;
    int kernel, stride, padding;
    // Channels of all sources, and elements of a window: those of its pixels, and zeros up to a multiple that products like.
    int channels, depth;

    template <int COUNT>
    DEVICE void copy(const Concatenation& sources, int row, int y, int x, Element* target) const {
        for (int element = threadIdx.x * COUNT; element < depth; element += blockDim.x * COUNT) {
            const int tap = element / channels, channel = element % channels;
            const int line = y * stride + tap / kernel - padding, column = x * stride + tap % kernel - padding;
            float values[COUNT] = {};
            const bool inside = line >= 0 && line < upsampled_height && column >= 0 && column < upsampled_width;
            if (inside && tap < kernel * kernel) {
                const int source_line = (int)((long long)line * height / upsampled_height);
                const int source_column = (int)((long long)column * width / upsampled_width);
                load(sources.at(row, source_line * width + source_column, channel), values);
            }
            store(target + element, values);
        }
    }
};

// Grid: pixels of the output from `first_pixel` on. `target`: `[pixels, depth]`, a window as `[kernel, kernel, channels]`.
extern "C" __global__ void gather(CONCATENATION_PARAMETERS, Element* target, int height, int width, int upsampled_height,
                                  int upsampled_width, int kernel, int stride, int padding, int channels, int depth, int output_height,
                                  int output_width, int first_pixel, int wide) {
    const Concatenation sources = CONCATENATION;
    const Windows windows = {height, width, upsampled_height, upsampled_width, kernel, stride, padding, channels, depth};
    const int pixel = first_pixel + blockIdx.x;
    const int x = pixel % output_width, line = pixel / output_width;
    const int y = line % output_height, row = line / output_height;
    Element* window = target + (long long)blockIdx.x * depth;
    if (wide) {
        windows.copy<WIDE>(sources, row, y, x, window);
    } else {
        windows.copy<1>(sources, row, y, x, window);
    }
}

// What is added to sums; null where there is none.
struct Addends {
    const float* bias;
    const Element* row_bias;

    template <int COUNT>
    DEVICE void add(int channel, float (&sums)[COUNT]) const {
        if (bias) {
#pragma unroll
            for (int index = 0; index < COUNT; index++) sums[index] += load(bias + channel + index);
        }
        if (row_bias) {
            float values[COUNT];
            load(row_bias + channel, values);
#pragma unroll
            for (int index = 0; index < COUNT; index++) sums[index] += values[index];
        }
    }
};

// `channels` are those of the target; with GEGLU the sums have twice as many.
template <int COUNT>
DEVICE void finish_pixel(const Element* sums, const Addends& addends, const Element* residual, Element* target, int channels,
                         int activation) {
    for (int channel = threadIdx.x * COUNT; channel < channels; channel += blockDim.x * COUNT) {
        float values[COUNT];
        load(sums + channel, values);
        addends.add(channel, values);
        if (activation == GEGLU) {
            float gates[COUNT];
            load(sums + channels + channel, gates);
            addends.add(channels + channel, gates);
#pragma unroll
            for (int index = 0; index < COUNT; index++) values[index] *= gelu(gates[index]);
        } else {
#pragma unroll
            for (int index = 0; index < COUNT; index++) values[index] = activated(activation, values[index]);
        }
        if (residual) {
            float more[COUNT];
            load(residual + channel, more);
#pragma unroll
            for (int index = 0; index < COUNT; index++) values[index] += more[index];
        }
        store(target + channel, values);
    }
}

// Grid: pixels of the output from `first_pixel` on, `row_pixels` of them in a row. `sums` begin with the first, and may lie where they
// are finished: a thread reads what it writes and nothing that another one does. `row_bias_step` is 0 where one row counts for all.
extern "C" __global__ void finish(const Element* sums, const float* bias, const Element* row_bias, int row_bias_step,
                                  const Element* residual, int residual_row_pixels, Element* target, int channels, int row_pixels,
                                  int first_pixel, int activation, int wide) {
    const int pixel = first_pixel + blockIdx.x;
    const int row = pixel / row_pixels;
    const int sum_channels = activation == GEGLU ? 2 * channels : channels;
    const Element* of_pixel = sums + (long long)blockIdx.x * sum_channels;
    const Addends addends = {bias, row_bias ? row_bias + (long long)row * row_bias_step * sum_channels : row_bias};
    const Operand more = {residual, channels, residual_row_pixels};
    const Element* residual_pixel = residual ? more.at(row, pixel % row_pixels, 0) : residual;
    Element* finished = target + (long long)pixel * channels;
    if (wide) {
        finish_pixel<WIDE>(of_pixel, addends, residual_pixel, finished, channels, activation);
    } else {
        finish_pixel<1>(of_pixel, addends, residual_pixel, finished, channels, activation);
    }
}
