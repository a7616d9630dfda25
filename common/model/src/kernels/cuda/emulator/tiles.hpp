// What `tiles.cuh` has instructions for, as exchanges between the lanes of a warp; behind the sources' prelude.

#ifdef ELEMENT_BF16

namespace emulator {

// A lane's words of both factors.
struct Factors {
    unsigned left[4], right[2];
};

static float element_of(unsigned word, unsigned half) { return as_float((Element)(word >> (16 * half))); }

static void load_tiles(const Element* line, bool turned, unsigned (&tiles)[4]) {
    const Exchange<const Element*> lines(line);
    const unsigned lane = threadIdx.x % WARP_THREADS;
    for (unsigned tile = 0; tile < 4; tile++) {
        const unsigned row = turned ? lane % 4 * 2 : lane / 4, column = turned ? lane / 4 : lane % 4 * 2;
        const Element first = lines.of(tile * 8 + row)[column];
        const Element second = turned ? lines.of(tile * 8 + row + 1)[column] : lines.of(tile * 8 + row)[column + 1];
        tiles[tile] = first | (unsigned)second << 16;
    }
}

}  // namespace emulator

static void multiply_tiles(float (&sums)[4], const unsigned (&left)[4], unsigned right_0, unsigned right_1) {
    const emulator::Exchange<emulator::Factors> factors({{left[0], left[1], left[2], left[3]}, {right_0, right_1}});
    const unsigned lane = threadIdx.x % WARP;
    for (unsigned index = 0; index < 4; index++) {
        const unsigned row = lane / 4 + index / 2 * 8, column = lane % 4 * 2 + index % 2;
        for (unsigned term = 0; term < 16; term++) {
            const unsigned part = term % 8 / 2, half = term % 2, is_upper = term / 8;
            const unsigned of_left = factors.of(row % 8 * 4 + part).left[row / 8 + 2 * is_upper];
            const unsigned of_right = factors.of(column * 4 + part).right[is_upper];
            sums[index] += emulator::element_of(of_left, half) * emulator::element_of(of_right, half);
        }
    }
}

static void load_tiles(const Element* line, unsigned (&tiles)[4]) { emulator::load_tiles(line, false, tiles); }

static void load_tiles_turned(const Element* line, unsigned (&tiles)[4]) { emulator::load_tiles(line, true, tiles); }

// At once: the barrier behind the wait is what other threads wait for.
static void copy_begin(Element* target, const Element* source, bool is_there) {
    if (is_there) emulator::check(source, 16, false);
    if (reinterpret_cast<uintptr_t>(target) % 16 != 0) emulator::fail("a copy that is not aligned");
    for (int index = 0; index < WIDE; index++) target[index] = is_there ? source[index] : 0;
}

static void copies_are_a_group() {}

template <int PENDING>
static void wait_for_copies() {}

static unsigned pair_of(float first, float second) {
    Element elements[2];
    from_float(first, elements[0]);
    from_float(second, elements[1]);
    return elements[0] | (unsigned)elements[1] << 16;
}

#endif
