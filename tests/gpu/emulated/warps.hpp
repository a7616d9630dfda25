// Between the emulator's header and the kernels' sources: sums and maxima over a warp in one exchange where a GPU takes five, in the same order.
// The tests' emulator checks the five.

#pragma once

#define WARP_SUMS

namespace emulator {

template <typename Combine>
static float of_warp(float value, Combine combine) {
    Fiber& fiber = state->fibers[state->current];
    const unsigned first = state->current / WARP_THREADS * WARP_THREADS, place = fiber.exchanges++ % 2;
    fiber.lane_value[place] = value;
    give_turn_away(Turn::AT_WARP_BARRIER);
    // The lane that goes on first does it for all.
    static thread_local uint64_t combined_at = 0;
    static thread_local float result;
    if (combined_at == state->meetings) return result;
    float values[WARP_THREADS];
    for (unsigned lane = 0; lane < WARP_THREADS; lane++) values[lane] = state->fibers[first + lane].lane_value[place];
    for (unsigned distance = WARP_THREADS / 2; distance > 0; distance /= 2) {
        for (unsigned lane = 0; lane < distance; lane++) values[lane] = combine(values[lane], values[lane + distance]);
    }
    combined_at = state->meetings;
    return result = values[0];
}

}  // namespace emulator

static inline float warp_sum(float value) {
    return emulator::of_warp(value, [](float one, float other) { return one + other; });
}

static inline float warp_max(float value) {
    return emulator::of_warp(value, [](float one, float other) { return fmaxf(one, other); });
}
