// Modules and launches. A module is a library that nvrtc.cpp has compiled, and says what its kernels' parameters are.

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include "driver.hpp"
#include "module.hpp"

namespace emulated {

namespace {

constexpr unsigned SHARED_BYTES_UNASKED = 48 << 10;
constexpr unsigned SHARED_BYTES_AT_MOST = 227 << 10;

// Pieces of a launch for each thread of the pool: of blocks, some take longer than others.
constexpr uint64_t PIECES_OF_THREAD = 4;

struct Function {
    const Kernel* kernel;
    unsigned shared_bytes = SHARED_BYTES_UNASKED;
};

struct Module {
    void* library;
};

struct Dimensions {
    unsigned grid[3];
    unsigned block;
    unsigned shared_bytes;
};

// The parameters' bytes, as they were when the kernel was launched.
struct Arguments {
    std::vector<std::vector<char>> values;

    Arguments(const Kernel* kernel, void** given) {
        for (uint32_t index = 0; index < kernel->parameters; index++) {
            const char* first = static_cast<const char*>(given[index]);
            values.emplace_back(first, first + kernel->sizes[index]);
        }
    }
};

// Memory that the arguments point into. A parameter that is no pointer is rarely taken for one, and then the kernel may access more than it will.
std::vector<Range> ranges_of(const Kernel* kernel, const Arguments& arguments, int device) {
    std::vector<Range> ranges;
    for (size_t index = 0; index < arguments.values.size(); index++) {
        const std::vector<char>& value = arguments.values[index];
        for (size_t offset = 0; offset + sizeof(Address) <= value.size(); offset += sizeof(Address)) {
            Address pointer, begin;
            size_t bytes;
            memcpy(&pointer, value.data() + offset, sizeof(pointer));
            if (!find_memory(device, pointer, &begin, &bytes)) {
                if (pointer && kernel->is_pointer[index]) {
                    refuse("%s: parameter %zu points to %#llx, where GPU %d has no memory now", kernel->name, index,
                           (unsigned long long)pointer, device);
                }
                continue;
            }
            const auto is_known = [begin](const Range& range) { return (Address)range.begin == begin; };
            if (std::none_of(ranges.begin(), ranges.end(), is_known)) ranges.push_back({(unsigned char*)begin, bytes, 1, 0});
        }
    }
    return ranges;
}

void run(const Kernel* kernel, const Dimensions& dimensions, const Arguments& arguments, int device) {
    static thread_local std::mt19937_64 random = chance((uint64_t)device);
    const std::vector<Range> ranges = ranges_of(kernel, arguments, device);
    const unsigned* grid = dimensions.grid;
    const Launch launch = {{grid[0], grid[1], grid[2]}, dimensions.block, dimensions.shared_bytes, (uint32_t)(random() % 2), ranges.data(), ranges.size()};
    std::vector<void*> pointers;
    for (const std::vector<char>& value : arguments.values) pointers.push_back((void*)value.data());
    static const uint64_t threads = setting("ASYNCDIFF_EMULATED_THREADS", std::max(1u, std::thread::hardware_concurrency()));
    const uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
    const uint64_t pieces = std::min(blocks, threads * PIECES_OF_THREAD);
    parallel(pieces, [&](size_t piece) {
        const char* error = kernel->run(&launch, pointers.data(), blocks * piece / pieces, blocks * (piece + 1) / pieces);
        if (error) refuse("%s: %s", kernel->name, error);
    });
}

int check(const Function* function, const Dimensions& dimensions, const unsigned* block) {
    const char* name = function->kernel->name;
    const unsigned* grid = dimensions.grid;
    const unsigned threads = block[0] * block[1] * block[2];
    if (block[1] != 1 || block[2] != 1) refuse("%s: blocks of several dimensions are not emulated", name);
    if (threads == 0 || threads > 1024 || (function->kernel->threads && threads > function->kernel->threads)) {
        return complain(INVALID_VALUE, "%s is launched with %u threads in a block", name, threads);
    }
    if (threads % 32 != 0) refuse("%s: %u threads: blocks of a part of a warp are not emulated", name, threads);
    if (!grid[0] || !grid[1] || !grid[2] || grid[0] > INT32_MAX || grid[1] > 65535 || grid[2] > 65535) {
        return complain(INVALID_VALUE, "%s is launched with [%u, %u, %u] blocks", name, grid[0], grid[1], grid[2]);
    }
    if (dimensions.shared_bytes > function->shared_bytes) {
        return complain(INVALID_VALUE, "%s is launched with %u bytes of shared memory, and %u were asked for", name, dimensions.shared_bytes,
                        function->shared_bytes);
    }
    return SUCCESS;
}

}  // namespace

}  // namespace emulated

using namespace emulated;

EXPORTED int cuModuleLoadData(Module** module, const void* image) {
    BOUND(context);
    if (int code = forbidden_by_capture("cuModuleLoadData")) return code;
    char path[4096];
    int major, minor;
    if (sscanf(static_cast<const char*>(image), MODULE_FORMAT, &major, &minor, path) != 3) {
        return complain(INVALID_IMAGE, "a module that the emulated NVRTC has not compiled");
    }
    if (std::make_pair(major, minor) > capability()) {
        return complain(NO_BINARY_FOR_GPU, "a module for compute capability %d.%d, which the GPU lacks", major, minor);
    }
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) return complain(INVALID_IMAGE, "%s", dlerror());
    *module = new Module{library};
    return SUCCESS;
}

// The library stays: launches that are still to come may be of it.
EXPORTED int cuModuleUnload(Module* module) {
    delete module;
    return SUCCESS;
}

EXPORTED int cuModuleGetFunction(Function** function, Module* module, const char* name) {
    const auto* kernel = static_cast<const Kernel*>(dlsym(module->library, (KERNEL_PREFIX + std::string(name)).c_str()));
    if (!kernel) return NOT_FOUND;
    *function = new Function{kernel};
    return SUCCESS;
}

// Numbers of `CUfunction_attribute`.
EXPORTED int cuFuncSetAttribute(Function* function, int attribute, int value) {
    switch (attribute) {
        case 8:  // dynamic shared memory
            if (value < 0 || (unsigned)value > SHARED_BYTES_AT_MOST) return complain(INVALID_VALUE, "%d bytes of shared memory", value);
            function->shared_bytes = (unsigned)value;
            return SUCCESS;
        case 9:  // how the cache is divided, which costs time and nothing else
            return SUCCESS;
        default:
            return complain(INVALID_VALUE, "attribute %d of a kernel is not emulated", attribute);
    }
}

EXPORTED int cuFuncSetCacheConfig(Function*, int) { return SUCCESS; }

EXPORTED int cuLaunchKernel(Function* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                            unsigned block_z, unsigned shared_bytes, void* handle, void** parameters, void** extra) {
    BOUND(context);
    Stream* stream = stream_of(handle);
    if (stream->context != context) return complain(INVALID_HANDLE, "a kernel is launched in a stream of another GPU than the thread's");
    if (extra) refuse("parameters in one piece are not emulated");
    const unsigned block[3] = {block_x, block_y, block_z};
    const Dimensions dimensions = {{grid_x, grid_y, grid_z}, block_x, shared_bytes};
    if (int code = check(function, dimensions, block)) return code;
    const Kernel* kernel = function->kernel;
    enqueue(stream, [=, arguments = Arguments(kernel, parameters), device = device_of(stream)] {
        count("kernels");
        run(kernel, dimensions, arguments, device);
    });
    return SUCCESS;
}
