// What a compiled module and the driver agree on. The structures of the emulator's header, cuda.hpp, again: a module includes that one.

#pragma once

#include <cstdint>

// What NVRTC's text says: compute capability, and the path of the library.
#define MODULE_FORMAT "// emulated: %d.%d %4095[^\n]"

// Before the name of a kernel: what describes it.
#define KERNEL_PREFIX "emulated_kernel_"

namespace emulated {

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
    uint32_t backwards;
    const Range* ranges;
    uint64_t range_count;
};

// As kernels.hpp makes it.
struct Kernel {
    const char* name;
    // The most threads of a block; 0: as many as the GPU has.
    uint32_t threads;
    uint32_t parameters;
    // By parameter.
    const uint32_t* sizes;
    const bool* is_pointer;
    // Blocks from the first number to before the second. What went wrong, or null.
    const char* (*run)(const void* launch, void** arguments, uint64_t first, uint64_t end);
};

}  // namespace emulated
