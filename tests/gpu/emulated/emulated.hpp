// Emulated GPUs: libraries in the place of CUDA's, so that all that the host does for a GPU runs, and is checked, on machines without one.
//
//   libcuda.so       device.cpp, memory.cpp, copies.cpp, stream.cpp, graph.cpp, kernel.cpp, pool.cpp: the driver
//   libnvrtc.so      nvrtc.cpp: the kernels' sources, compiled by the machine's C++ compiler with the header of the tests' emulator
//   libcublasLt.so   cublaslt.cpp, product.hpp: products
//   libnccl.so       nccl.cpp, communicator.cpp, transfers.cpp: sends and receives between GPUs of one machine
//
// What this proves is the host's side: arguments, order, waiting, lifetimes of memory, limits of launches, the protocol between processes. It says
// nothing of how fast or how exact a GPU is, and nothing of what only the real libraries know.
//
// As hostile as a GPU may be: streams run by themselves, each as late as chance will have it, so that what is read or used again too early
// shows; memory is NaN (0xff) before it is written and after it was given back; copies from pinned memory read it when their turn comes.
// Kernels access what their pointers point into and nothing else. What a GPU would not forgive, and what is not emulated, ends the process
// with a line on stderr that begins with `emulated GPU:`. A function that is not there at all is named by whoever looks for it.
//
//   ASYNCDIFF_EMULATED_GPUS           how many there are [1]; CUDA_VISIBLE_DEVICES chooses among them
//   ASYNCDIFF_EMULATED_MEMORY_BYTES   memory of each, of each process: processes do not see what others take [8 GiB]
//   ASYNCDIFF_EMULATED_CAPABILITY     compute capability [9.0]
//   ASYNCDIFF_EMULATED_SEED           of the delays and of the order of threads and blocks [1]
//   ASYNCDIFF_EMULATED_DELAY_US       the longest delay before a piece of work [200]; 0: none
//   ASYNCDIFF_EMULATED_THREADS        that carry out kernels and products [as many as the machine has]
//   ASYNCDIFF_EMULATED_REPORT         a file: a line is added to it for each process that ends by itself, with what was done

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>

// A function of a library's C interface. Codes are ints there, as enums are.
#define EXPORTED extern "C" __attribute__((visibility("default")))

#pragma GCC visibility push(default)

namespace emulated {

// What the driver returns.
enum Code : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    CONTEXT_IS_DESTROYED = 709,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_ISOLATION = 905,
    CAPTURED_EVENT = 907,
    CAPTURE_WRONG_THREAD = 908,
};

using Work = std::function<void()>;

struct Stream;

// Ends the process: the program does what a GPU would not forgive, or what is not emulated.
[[noreturn]] void refuse(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Says what was wrong with a call, and returns the code.
int complain(Code code, const char* format, ...) __attribute__((format(printf, 2, 3)));

// A setting of the environment, or what holds without it.
uint64_t setting(const char* name, uint64_t otherwise);

// Chance by the seed; `salt` tells its users apart.
std::mt19937_64 chance(uint64_t salt);

// Counts for the report.
void count(const char* what, uint64_t by = 1);

// Runs `task` for each number below `count`, several at a time, and returns when all have ended.
void parallel(size_t count, const std::function<void(size_t)>& task);

// The GPU of the calling thread's context, as this process numbers them; -1 if there is no context, or one that was given back.
int current_device();

// The number that all processes know it by.
int physical_device(int device);

// The stream of a handle, with null for the context's default one. Refuses what is none.
Stream* stream_of(void* handle);

int device_of(const Stream* stream);

bool is_capturing(const Stream* stream);

// Hands work over to a stream, which carries it out in its order; or to the graph that the stream is captured to, once for each launch of it.
void enqueue(Stream* stream, Work work);

// In a stream's order: refuses unless these bytes are memory of the GPU that may be accessed now.
void check_memory(int device, const void* begin, size_t bytes, const char* what);

}  // namespace emulated

#pragma GCC visibility pop
