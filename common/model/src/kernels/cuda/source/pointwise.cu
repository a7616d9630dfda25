// Element by element: a block takes a pixel and its threads the channels, so that nothing is divided for each element.

template <int COUNT>
DEVICE void activate_pixel(const Element* source, Element* target, int channels, int activation) {
    for (int channel = threadIdx.x * COUNT; channel < channels; channel += blockDim.x * COUNT) {
        float values[COUNT];
        load(source + channel, values);
#pragma unroll
        for (int index = 0; index < COUNT; index++) values[index] = activated(activation, values[index]);
        store(target + channel, values);
    }
}

// Grid: pixels of all rows.
extern "C" __global__ void activate(const Element* source, Element* target, int channels, int activation, int wide) {
    const long long first = (long long)blockIdx.x * channels;
    if (wide) {
        activate_pixel<WIDE>(source + first, target + first, channels, activation);
    } else {
        activate_pixel<1>(source + first, target + first, channels, activation);
    }
}

// Grid: pixels of a row, rows. Of embeddings, a few thousand elements.
extern "C" __global__ void add(const Element* one, int one_row_pixels, const Element* other, int other_row_pixels, Element* target,
                               int channels) {
    const int pixel = blockIdx.x, row = blockIdx.y;
    const Element* first = Operand{one, channels, one_row_pixels}.at(row, pixel, 0);
    const Element* second = Operand{other, channels, other_row_pixels}.at(row, pixel, 0);
    Element* sum = target + ((long long)row * gridDim.x + pixel) * channels;
    for (int channel = threadIdx.x; channel < channels; channel += blockDim.x) {
        store(sum + channel, load(first + channel) + load(second + channel));
    }
}

template <int COUNT>
DEVICE void copy_pixel(const Element* source, Element* target, int channels) {
    for (int channel = threadIdx.x * COUNT; channel < channels; channel += blockDim.x * COUNT) {
        float values[COUNT];
        load(source + channel, values);
        store(target + channel, values);
    }
}

// Grid: pixels of a row, rows. One operand of a concatenation, to the channels of the target from `first_channel` on.
extern "C" __global__ void place_channels(const Element* source, int channels, int source_row_pixels, Element* target,
                                          int target_channels, int first_channel, int wide) {
    const int pixel = blockIdx.x, row = blockIdx.y;
    const Element* from = Operand{source, channels, source_row_pixels}.at(row, pixel, 0);
    Element* to = target + ((long long)row * gridDim.x + pixel) * target_channels + first_channel;
    if (wide) {
        copy_pixel<WIDE>(from, to, channels);
    } else {
        copy_pixel<1>(from, to, channels);
    }
}

// Grid: numbers of all rows. With `flip`, cosines before sines.
extern "C" __global__ void sinusoids(const void* numbers, int numbers_are_floats, const float* frequencies, int count, int flip,
                                     Element* target) {
    const float number = numbers_are_floats ? load(static_cast<const float*>(numbers) + blockIdx.x)
                                            : load(static_cast<const Element*>(numbers) + blockIdx.x);
    Element* sinusoids = target + (long long)blockIdx.x * 2 * count;
    for (int index = threadIdx.x; index < count; index += blockDim.x) {
        const float angle = number * load(frequencies + index);
        store(sinusoids + (flip ? count + index : index), sinf(angle));
        store(sinusoids + (flip ? index : count + index), cosf(angle));
    }
}

// Grid: blocks of as many elements as there are threads.
extern "C" __global__ void from_floats(const float* source, Element* target, int count) {
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count) store(target + index, load(source + index));
}

// Grid: blocks of as many elements as there are threads.
extern "C" __global__ void to_floats(const Element* source, float* target, int count) {
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count) store(target + index, load(source + index));
}
