// CUDA as C++, for the kernels' sources: a launch's blocks one after the other, a block's threads as fibers that take turns.
//
// A barrier gives the turn away until all threads that it is for have come. A warp goes as far as it can without the others, so that what
// lies between two barriers of the block happens in the order of the warps and threads, or in the opposite one. It refuses what a GPU would
// not forgive: accesses outside of the launch's memory or not aligned, writes to what is read only or behind the shared memory, barriers
// that not all threads reach. Shared memory is NaN before each block.

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#define EMULATED
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define CHECK_LOAD(pointer, bytes) emulator::check(pointer, bytes, false)
#define CHECK_STORE(pointer, bytes) emulator::check(pointer, bytes, true)
#define SHARED(name) float* name = emulator::state->shared

struct dim3 {
    unsigned x, y, z;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

static thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

static inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

// A function that its callers know nothing of: whoever takes a turn uses registers that the function itself does not.
#ifdef __clang__
#define APART __attribute__((noinline))
#else
#define APART __attribute__((noipa))
#endif

namespace emulator {

// What `cvt.f32.f16` does.
static inline float float_of_half(unsigned short half) {
    const unsigned sign = (half & 0x8000u) << 16, exponent = half >> 10 & 0x1fu, fraction = half & 0x3ffu;
    if (exponent == 0x1f) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    // Below the normal numbers: so many of the smallest one.
    const float magnitude = fraction * 0x1p-24f;
    return sign ? -magnitude : magnitude;
}

// What `cvt.rn.f16.f32` does: to the nearest, to the even one of two, to infinity from halfway behind the largest number on.
static inline unsigned short half_of_float(float value) {
    const unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fffu;
    if (magnitude >= 0x477ff000u) return sign | 0x7c00u;
    if (magnitude >= 0x38800000u) return sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    // Below the normal numbers the sum's last digit is the smallest number's, so the addition rounds.
    return sign | (__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u);
}

constexpr unsigned WARP_THREADS = 32;
constexpr unsigned BLOCK_THREADS = 1024;
constexpr size_t STACK_BYTES = 64 << 10;
constexpr size_t STACK_COLOURS = 16, STACK_STEP = 4096 / STACK_COLOURS + 64;
// Floats behind the shared memory, which nobody may write.
constexpr size_t SHARED_GUARD = 4 << 10;

// As the Rust side has them.
struct Range {
    const unsigned char* begin;
    uint64_t bytes;
    uint32_t writable;
    uint32_t unused;
};

struct Launch {
    uint32_t grid[3];
    uint32_t block;
    uint32_t shared_bytes;
    // Threads and blocks take their turns from the last to the first.
    uint32_t backwards;
    const Range* ranges;
    uint64_t range_count;
};

enum class Turn { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };

// Where to go on. By the compiler's own setjmp, which saves three registers and takes nobody else's word for what a stack is: turns change
// millions of times a second.
typedef void* Place[5];

// Small, for a launch goes through all of them again and again.
struct Fiber {
    Place where;
    Turn turn;
    bool started;
    unsigned exchanges;
    // What the lane gives to the others, for this exchange and the one before it, which slower lanes may still read.
    float lane_value[2];
};

struct State {
    std::vector<Fiber> fibers;
    std::unique_ptr<unsigned char[]> stacks;
    Place scheduler;
    unsigned current;
    // How often all threads of a warp have met.
    uint64_t meetings;
    float* shared;
    const Launch* launch;
    void (*kernel)(void*);
    void* arguments;
    char error[256];
};

// Reached by a pointer: what an initial-exec library has of a thread must be small.
static thread_local State* state;

// The launch has failed: what is left of the fibers is never gone on with.
static void report(const char* what) {
    snprintf(state->error, sizeof(state->error), "%s, thread %u of block [%u, %u, %u]", what, threadIdx.x, blockIdx.x, blockIdx.y,
             blockIdx.z);
    for (Fiber& fiber : state->fibers) fiber.started = false;
}

// In a function of its own, as the compiler wants it.
[[noreturn]] static APART void go_to(Place place) { __builtin_longjmp(place, 1); }

// For a thread.
[[noreturn]] static void fail(const char* what) {
    report(what);
    go_to(state->scheduler);
}

static void check(const void* pointer, size_t bytes, bool writes) {
    const unsigned char* first = static_cast<const unsigned char*>(pointer);
    for (uint64_t index = 0; index < state->launch->range_count; index++) {
        const Range& range = state->launch->ranges[index];
        if (first < range.begin || first + bytes > range.begin + range.bytes) continue;
        if (writes && !range.writable) fail("a write to what is read only");
        if (reinterpret_cast<uintptr_t>(pointer) % bytes != 0) fail("an access that is not aligned");
        return;
    }
    fail(writes ? "a write outside of the launch's memory" : "a read outside of the launch's memory");
}

static APART void give_turn_away(Turn turn) {
    Fiber& fiber = state->fibers[state->current];
    fiber.turn = turn;
    if (__builtin_setjmp(fiber.where) == 0) go_to(state->scheduler);
}

static void run_fiber() {
    for (;;) {
        state->kernel(state->arguments);
        give_turn_away(Turn::DONE);
    }
}

// Begins a thread on its stack. Stacks end a little apart, for what lies a multiple of 4096 bytes apart competes for the same few lines of a cache.
[[noreturn]] static APART void start(unsigned thread) {
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = &state->stacks[thread * STACK_BYTES];
    context.uc_stack.ss_size = STACK_BYTES - thread % STACK_COLOURS * STACK_STEP;
    context.uc_link = nullptr;
    makecontext(&context, run_fiber, 0);
    setcontext(&context);
    __builtin_unreachable();
}

// Goes on with a thread until it gives its turn away.
static APART void resume(unsigned thread) {
    Fiber& fiber = state->fibers[thread];
    state->current = thread;
    threadIdx = {thread, 0, 0};
    if (__builtin_setjmp(state->scheduler) != 0) return;
    if (fiber.started) go_to(fiber.where);
    fiber.started = true;
    start(thread);
}

// Whether all threads from `first` to before `end` wait for the same, or are done.
static bool all_at(unsigned first, unsigned end, Turn turn) {
    const auto is_there = [turn](const Fiber& fiber) { return fiber.turn == turn; };
    return std::all_of(state->fibers.begin() + first, state->fibers.begin() + end, is_there);
}

static void make_ready(unsigned first, unsigned end) {
    for (unsigned thread = first; thread < end; thread++) state->fibers[thread].turn = Turn::READY;
}

// A warp as far as it goes without the others.
static void run_warp(unsigned first) {
    const unsigned end = first + WARP_THREADS;
    do {
        for (unsigned index = 0; index < WARP_THREADS && !state->error[0]; index++) {
            const unsigned thread = state->launch->backwards ? end - 1 - index : first + index;
            if (state->fibers[thread].turn == Turn::READY) resume(thread);
        }
        if (state->error[0] || !all_at(first, end, Turn::AT_WARP_BARRIER)) return;
        state->meetings++;
        make_ready(first, end);
    } while (true);
}

static void run_block() {
    const unsigned threads = state->launch->block;
    memset(state->shared, 0xff, state->launch->shared_bytes);
    make_ready(0, threads);
    for (unsigned thread = 0; thread < threads; thread++) state->fibers[thread].exchanges = 0;
    do {
        for (unsigned first = 0; first < threads && !state->error[0]; first += WARP_THREADS) {
            run_warp(state->launch->backwards ? threads - WARP_THREADS - first : first);
        }
        if (state->error[0] || all_at(0, threads, Turn::DONE)) return;
        if (!all_at(0, threads, Turn::AT_BLOCK_BARRIER)) return report("a barrier that not all threads reach");
        make_ready(0, threads);
    } while (true);
}

// Some of the launch's blocks, by their numbers.
struct Blocks {
    uint64_t first, end;
};

static void run_blocks(Blocks blocks) {
    for (uint64_t index = blocks.first; index < blocks.end && !state->error[0]; index++) {
        const uint64_t block = state->launch->backwards ? blocks.first + blocks.end - 1 - index : index;
        blockIdx = {(unsigned)(block % gridDim.x), (unsigned)(block / gridDim.x % gridDim.y), (unsigned)(block / gridDim.x / gridDim.y)};
        run_block();
    }
}

// The arguments as the driver takes them: a pointer to each. `kinds` has a letter for each: p, i or f.
template <typename Parameter>
static bool is_kind(char kind) {
    if (std::is_pointer<Parameter>::value) return kind == 'p';
    if (std::is_same<Parameter, int>::value) return kind == 'i';
    return std::is_same<Parameter, float>::value && kind == 'f';
}

// One for all kernels: what counts meetings must not begin anew with another kernel.
static State* state_of_thread() {
    static thread_local std::unique_ptr<State> of_thread;
    if (!of_thread) {
        of_thread.reset(new State());
        of_thread->fibers.resize(BLOCK_THREADS);
        of_thread->stacks.reset(new unsigned char[BLOCK_THREADS * STACK_BYTES]);
    }
    return of_thread.get();
}

// What went wrong, or null. The arguments are the kernel's parameters.
template <typename... Parameters, size_t... Indices>
static const char* run_part(void (*kernel)(Parameters...), const Launch* launch, void** arguments, Blocks blocks,
                            std::index_sequence<Indices...>) {
    struct Call {
        void (*kernel)(Parameters...);
        void** arguments;
    } call = {kernel, arguments};
    state = state_of_thread();
    state->kernel = [](void* pointer) {
        const Call* call = static_cast<const Call*>(pointer);
        call->kernel(*static_cast<Parameters*>(call->arguments[Indices])...);
    };
    state->arguments = &call;
    state->launch = launch;
    state->error[0] = 0;
    const size_t shared_floats = launch->shared_bytes / sizeof(float);
    std::vector<float4> shared((shared_floats + SHARED_GUARD) / 4 + 1);
    memset(shared.data(), 0xff, shared.size() * sizeof(float4));
    state->shared = &shared[0].x;
    gridDim = {launch->grid[0], launch->grid[1], launch->grid[2]};
    blockDim = {launch->block, 1, 1};
    run_blocks(blocks);
    const auto is_written = [](float value) { return __float_as_uint(value) != 0xffffffffu; };
    if (std::any_of(state->shared + shared_floats, state->shared + shared_floats + SHARED_GUARD, is_written)) {
        report("a write behind the shared memory");
    }
    return state->error[0] ? state->error : nullptr;
}

template <typename... Parameters, size_t... Indices>
static const char* run(void (*kernel)(Parameters...), const Launch* launch, void** arguments, const char* kinds,
                       std::index_sequence<Indices...> indices) {
    if (strlen(kinds) != sizeof...(Parameters) || !(is_kind<Parameters>(kinds[Indices]) && ...)) {
        return "arguments that are not the kernel's parameters";
    }
    return run_part(kernel, launch, arguments, {0, (uint64_t)launch->grid[0] * launch->grid[1] * launch->grid[2]}, indices);
}

template <typename... Parameters>
static const char* run(void (*kernel)(Parameters...), const Launch* launch, void** arguments, const char* kinds) {
    return run(kernel, launch, arguments, kinds, std::index_sequence_for<Parameters...>());
}

static float exchange(float value, unsigned lane) {
    Fiber& fiber = state->fibers[state->current];
    const unsigned place = fiber.exchanges++ % 2, first = state->current / WARP_THREADS * WARP_THREADS;
    fiber.lane_value[place] = value;
    give_turn_away(Turn::AT_WARP_BARRIER);
    return state->fibers[first + lane].lane_value[place];
}

}  // namespace emulator

static inline void __syncthreads() { emulator::give_turn_away(emulator::Turn::AT_BLOCK_BARRIER); }

static inline float __shfl_xor_sync(unsigned lanes, float value, int distance) {
    if (lanes != 0xffffffffu) emulator::fail("an exchange of a part of a warp");
    return emulator::exchange(value, (threadIdx.x % emulator::WARP_THREADS) ^ distance);
}

static inline int min(int one, int other) { return one < other ? one : other; }

// A kernel, callable by its name.
#define EMULATE(kernel)                                                                                                         \
    extern "C" __attribute__((visibility("default"))) const char* emulate_##kernel(const emulator::Launch* launch, void** arguments, \
                                                                                   const char* kinds) {                              \
        return emulator::run(kernel, launch, arguments, kinds);                                                                      \
    }
