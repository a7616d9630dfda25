// What the driver's parts know of each other.

#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "emulated.hpp"

namespace emulated {

using Clock = std::chrono::steady_clock;
// Device memory, as the driver's interface has it.
using Address = uint64_t;

struct Capture;

// A GPU's primary context. There is one for each GPU, alive while somebody retains it.
struct Context {
    int device;
    int retained = 0;
    Stream* default_stream = nullptr;
};

// A place in a stream's order that is come by once.
struct Mark {
    std::mutex mutex;
    std::condition_variable changed;
    bool is_passed = false;
    Clock::time_point at;

    void pass();
    void wait();
    bool has_passed();
};

struct Stream {
    Context* context;
    std::mt19937_64 random;
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Work> queue;
    uint64_t handed_over = 0;
    uint64_t done = 0;
    bool ends = false;
    // While it is captured; of the thread that captures.
    std::shared_ptr<Capture> capture;
    // Bytes that will be given back by work that has been handed over, and that its own allocations may count on. By memory's lock.
    size_t coming_free = 0;

    Stream(Context* context, uint64_t number) : context(context), random(chance(number)) {}
    // To the queue, also while a capture goes on.
    void hand_over(Work work);
    // Until all is done that has been handed over.
    void wait();
    void delay();
};

// Work that was recorded, in order.
struct Capture {
    std::vector<Work> works;
    bool is_invalid = false;
    int mode = 0;
    std::thread::id thread;
};

// The GPUs' compute capability: major and minor.
std::pair<int, int> capability();

// The calling thread's context if it is alive; otherwise null, with the code that says why.
Context* bound(Code* code);

// Calls that wait, or allocate in no stream's order, spoil captures that forbid them: then this says so and returns a code.
int forbidden_by_capture(const char* call);

// Memory that a context's end gives back.
void forget_memory(int device);

void end_streams(Context* context);

// A new stream with its thread.
Stream* start_stream(Context* context);

// Waits for all streams of a GPU, also those that were destroyed.
void wait_for_streams(Context* context);

// The allocation that this lies in, of device memory of this GPU or of pinned memory: its first byte and its length. False if none is.
bool find_memory(int device, Address address, Address* begin, size_t* bytes);

}  // namespace emulated

// In functions of the interface: the context, or the code that the function returns.
#define BOUND(name)                                    \
    emulated::Code code_of_##name;                     \
    emulated::Context* name = emulated::bound(&code_of_##name); \
    if (!name) return code_of_##name
