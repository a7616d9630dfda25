// Behind cuda.hpp and before the sources: what `tiles.cuh` has instructions for, as exchanges between the lanes of a warp.

#if defined(ELEMENT_BF16) || defined(ELEMENT_F16)

namespace emulator {

// Of a lane, for an exchange and the one before it, which slower lanes may still read. Not in its fiber: few kernels have tiles.
struct Given {
    alignas(16) unsigned char bytes[2][32];
};

// What all lanes of a warp give to each other.
template <typename T>
struct Exchange {
    static_assert(sizeof(T) <= sizeof(Given::bytes[0]), "more than a lane gives");
    const Given* of_warp;
    unsigned place;

    explicit Exchange(const T& value) {
        static thread_local std::unique_ptr<Given[]> of_block;
        if (!of_block) of_block.reset(new Given[BLOCK_THREADS]);
        place = state->fibers[state->current].exchanges++ % 2;
        of_warp = &of_block[state->current / WARP_THREADS * WARP_THREADS];
        memcpy(of_block[state->current].bytes[place], &value, sizeof(T));
        give_turn_away(Turn::AT_WARP_BARRIER);
    }

    // What a lane has given, for as long as the thread has the turn.
    T of(unsigned lane) const {
        T value;
        memcpy(&value, of_warp[lane].bytes[place], sizeof(T));
        return value;
    }
};

// A lane's words of both factors.
struct Factors {
    unsigned left[4], right[2];
};

static float float_of_element(unsigned short bits) {
#ifdef ELEMENT_BF16
    return __uint_as_float((unsigned)bits << 16);
#else
    return float_of_half(bits);
#endif
}

static unsigned short element_of_float(float value) {
#ifdef ELEMENT_BF16
    const unsigned bits = __float_as_uint(value);
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
#else
    return half_of_float(value);
#endif
}

static void load_lines(const unsigned short* line, bool turned, unsigned (&tiles)[4]) {
    const Exchange<const unsigned short*> lines(line);
    const unsigned lane = threadIdx.x % WARP_THREADS;
    for (unsigned tile = 0; tile < 4; tile++) {
        const unsigned row = turned ? lane % 4 * 2 : lane / 4, column = turned ? lane / 4 : lane % 4 * 2;
        const unsigned first = lines.of(tile * 8 + row)[column];
        const unsigned second = turned ? lines.of(tile * 8 + row + 1)[column] : lines.of(tile * 8 + row)[column + 1];
        tiles[tile] = first | second << 16;
    }
}

// What a warp's lanes have multiplied, and when.
struct Products {
    uint64_t made_at;
    float products[16][8];
};

// Of all lanes' words, the whole product.
static void multiply(const Exchange<Factors>& factors, float (&products)[16][8]) {
    float left[16][16], right[16][8];
    for (unsigned lane = 0; lane < WARP_THREADS; lane++) {
        const Factors of_lane = factors.of(lane);
        for (unsigned word = 0; word < 4; word++) {
            for (unsigned half = 0; half < 2; half++) {
                const unsigned term = lane % 4 * 2 + half, shift = half * 16;
                left[lane / 4 + word % 2 * 8][term + word / 2 * 8] = float_of_element(of_lane.left[word] >> shift);
                if (word < 2) right[term + word * 8][lane / 4] = float_of_element(of_lane.right[word] >> shift);
            }
        }
    }
    for (unsigned row = 0; row < 16; row++) {
        float sums[8] = {};
        for (unsigned term = 0; term < 16; term++) {
            for (unsigned column = 0; column < 8; column++) sums[column] += left[row][term] * right[term][column];
        }
        memcpy(products[row], sums, sizeof(sums));
    }
}

}  // namespace emulator

static inline void multiply_tiles(float (&sums)[4], const unsigned (&left)[4], unsigned right_0, unsigned right_1) {
    const emulator::Exchange<emulator::Factors> factors({{left[0], left[1], left[2], left[3]}, {right_0, right_1}});
    static thread_local std::unique_ptr<emulator::Products> of_thread;
    if (!of_thread) of_thread.reset(new emulator::Products());
    // The lane that goes on first multiplies for all.
    if (of_thread->made_at != emulator::state->meetings) {
        of_thread->made_at = emulator::state->meetings;
        emulator::multiply(factors, of_thread->products);
    }
    const unsigned lane = threadIdx.x % emulator::WARP_THREADS;
    for (unsigned index = 0; index < 4; index++) sums[index] += of_thread->products[lane / 4 + index / 2 * 8][lane % 4 * 2 + index % 2];
}

template <typename Element>
static void load_tiles(const Element* line, unsigned (&tiles)[4]) {
    emulator::load_lines(reinterpret_cast<const unsigned short*>(line), false, tiles);
}

template <typename Element>
static void load_tiles_turned(const Element* line, unsigned (&tiles)[4]) {
    emulator::load_lines(reinterpret_cast<const unsigned short*>(line), true, tiles);
}

// At once: the barrier behind the wait is what other threads wait for.
template <typename Element>
static void copy_begin(Element* target, const Element* source, bool is_there) {
    if (is_there) emulator::check(source, 16, false);
    if (reinterpret_cast<uintptr_t>(target) % 16 != 0) emulator::fail("a copy that is not aligned");
    if (is_there) {
        memcpy(target, source, 16);
    } else {
        memset(target, 0, 16);
    }
}

static inline float power_of_two(float exponent) { return exp2f(exponent); }

static inline void copies_are_a_group() {}

template <int PENDING>
static void wait_for_copies() {}

static inline unsigned pair_of(float first, float second) {
    return emulator::element_of_float(first) | (unsigned)emulator::element_of_float(second) << 16;
}

#endif
