// Tiles of 16-bit elements that a warp multiplies by units of their own, and the ways of elements there. Each is one instruction of the GPU's,
// which the emulator defines as an exchange between the lanes of a warp.
//
// Of a tile of 16 rows a lane has rows `lane / 4` and eight more, and of a line of 8 elements those from `lane % 4 * 2` on, two in a word.

#if defined(ELEMENT_BF16) || defined(ELEMENT_F16)

#ifdef ELEMENT_BF16
#define TILE_ELEMENT "bf16"
#else
#define TILE_ELEMENT "f16"
#endif

#ifndef EMULATED
#if __CUDA_ARCH__ >= 800
// sums[16, 8] += left[16, 16] * right[8, 16]^T
DEVICE void multiply_tiles(float (&sums)[4], const unsigned (&left)[4], unsigned right_0, unsigned right_1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32." TILE_ELEMENT "." TILE_ELEMENT ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right_0), "r"(right_1));
}

// Four tiles of 8 lines of 8 elements from shared memory; a lane names the line `lane % 8` of tile `lane / 8`.
DEVICE void load_tiles(const Element* line, unsigned (&tiles)[4]) {
    const unsigned address = (unsigned)__cvta_generic_to_shared(line);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(address)
                 : "memory");
}

// The same, with lines and columns exchanged.
DEVICE void load_tiles_turned(const Element* line, unsigned (&tiles)[4]) {
    const unsigned address = (unsigned)__cvta_generic_to_shared(line);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(address)
                 : "memory");
}

// 16 bytes to shared memory while the thread goes on; zeros where there is nothing.
DEVICE void copy_begin(Element* target, const Element* source, bool is_there) {
    const unsigned address = (unsigned)__cvta_generic_to_shared(target);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(source), "r"(is_there ? 16 : 0) : "memory");
}

// What the thread has begun to copy since the last time is a group.
DEVICE void copies_are_a_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all of the thread's groups but the newest `PENDING` have arrived.
template <int PENDING>
DEVICE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Two elements in a word, the first one lower.
DEVICE unsigned pair_of(float first, float second) {
    unsigned pair;
    asm("cvt.rn." TILE_ELEMENT "x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}

// With an error of 2^-22, less than the elements' by far; zero for minus infinity.
DEVICE float power_of_two(float exponent) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
    return power;
}
#else
// Lowering asks for none of this on older GPUs.
DEVICE void multiply_tiles(float (&)[4], const unsigned (&)[4], unsigned, unsigned) {}
DEVICE void load_tiles(const Element*, unsigned (&)[4]) {}
DEVICE void load_tiles_turned(const Element*, unsigned (&)[4]) {}
DEVICE void copy_begin(Element*, const Element*, bool) {}
DEVICE void copies_are_a_group() {}
template <int PENDING>
DEVICE void wait_for_copies() {}
DEVICE unsigned pair_of(float, float) { return 0; }
DEVICE float power_of_two(float) { return 0.0f; }
#endif
#endif

#endif
