// Checks of the emulation itself: that it is asynchronous, in order, and refuses what it should. Takes two emulated GPUs.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>

#include "driver.hpp"

using emulated::Address;

extern "C" {
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(void**, int);
int cuCtxSetCurrent(void*);
int cuStreamCreate(void**, unsigned);
int cuStreamSynchronize(void*);
int cuStreamWaitEvent(void*, void*, unsigned);
int cuStreamBeginCapture_v2(void*, int);
int cuStreamEndCapture(void*, void**);
int cuGraphInstantiateWithFlags(void**, void*, unsigned long long);
int cuGraphLaunch(void*, void*);
int cuLaunchHostFunc(void*, void (*)(void*), void*);
int cuEventCreate(void**, unsigned);
int cuEventRecord(void*, void*);
int cuEventQuery(void*);
int cuEventSynchronize(void*);
int cuEventElapsedTime_v2(float*, void*, void*);
int cuMemAlloc_v2(Address*, size_t);
int cuMemAllocAsync(Address*, size_t, void*);
int cuMemFreeAsync(Address, void*);
int cuMemHostAlloc(void**, size_t, unsigned);
int cuMemsetD8Async(Address, unsigned char, size_t, void*);
int cuMemcpyDtoHAsync_v2(void*, Address, size_t, void*);
int cuMemcpyHtoDAsync_v2(Address, const void*, size_t, void*);

struct Id {
    char text[128];
};
int ncclGetUniqueId(Id*);
int ncclCommInitRank(void**, int, Id, int);
int ncclGroupStart();
int ncclGroupEnd();
int ncclSend(const void*, size_t, int, int, void*, void*);
int ncclRecv(void*, size_t, int, int, void*, void*);
int ncclCommAbort(void*);
int ncclCommGetAsyncError(void*, int*);
}

namespace {

constexpr size_t BYTES = 1 << 20;
constexpr int UINT8 = 1;

void expect(bool is_so, const char* what) {
    if (is_so) return;
    fprintf(stderr, "the emulation fails: %s\n", what);
    _exit(1);
}

void sleep_ms(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }

// Runs it in a process of its own; that process must end by a refusal.
void expect_refused(const char* what, const std::function<void()>& wrong) {
    const pid_t child = fork();
    if (child == 0) {
        // What it says is what it should, here.
        if (!freopen("/dev/null", "w", stderr)) _exit(2);
        wrong();
        sleep_ms(200);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, what);
}

// A GPU with a stream, memory, and pinned memory, which the calling thread works with.
struct Gpu {
    void *context, *stream, *pinned;
    Address memory;

    explicit Gpu(int device) {
        cuInit(0);
        expect(cuDevicePrimaryCtxRetain(&context, device) == 0, "a context is made");
        cuCtxSetCurrent(context);
        cuStreamCreate(&stream, 1);
        expect(cuMemAllocAsync(&memory, BYTES, stream) == 0, "memory is allocated");
        cuMemHostAlloc(&pinned, BYTES, 0);
        cuStreamSynchronize(stream);
    }

    unsigned char first() const { return *(unsigned char*)pinned; }
};

// Holds a stream up until it is opened.
struct Gate {
    std::atomic<bool> is_open = false;

    void close(void* stream) {
        cuLaunchHostFunc(stream, [](void* gate) { while (!static_cast<Gate*>(gate)->is_open) sleep_ms(1); }, this);
    }
};

void check_streams() {
    Gpu gpu(0);
    void *other, *event, *begin, *end;
    cuStreamCreate(&other, 1);
    cuEventCreate(&event, 2);
    cuEventCreate(&begin, 0);
    cuEventCreate(&end, 0);
    cuMemcpyDtoHAsync_v2(gpu.pinned, gpu.memory, BYTES, gpu.stream);
    cuStreamSynchronize(gpu.stream);
    expect(gpu.first() == 0xff, "memory that nobody wrote is NaN");
    Gate gate;
    cuEventRecord(begin, gpu.stream);
    gate.close(gpu.stream);
    cuMemsetD8Async(gpu.memory, 7, BYTES, gpu.stream);
    cuEventRecord(event, gpu.stream);
    cuEventRecord(end, gpu.stream);
    cuStreamWaitEvent(other, event, 0);
    cuMemcpyDtoHAsync_v2(gpu.pinned, gpu.memory, BYTES, other);
    sleep_ms(30);
    expect(cuEventQuery(event) == 600 && gpu.first() == 0xff, "a stream goes on when what it waits for has come, and not before");
    gate.is_open = true;
    cuStreamSynchronize(other);
    float milliseconds = 0;
    expect(cuEventQuery(event) == 0 && gpu.first() == 7, "a stream sees what was written before the event that it waits for");
    cuEventSynchronize(end);
    expect(cuEventElapsedTime_v2(&milliseconds, begin, end) == 0 && milliseconds > 25, "events have times");
    // Without the event, sooner or later the copy is first.
    bool has_shown = false;
    for (int attempt = 0; attempt < 1000 && !has_shown; attempt++) {
        cuMemsetD8Async(gpu.memory, 1, BYTES, gpu.stream);
        cuStreamSynchronize(gpu.stream);
        cuMemsetD8Async(gpu.memory, 2, BYTES, gpu.stream);
        cuMemcpyDtoHAsync_v2(gpu.pinned, gpu.memory, BYTES, other);
        cuStreamSynchronize(other);
        has_shown = gpu.first() != 2;
    }
    expect(has_shown, "a wait that is missing shows");
}

void check_memory() {
    expect_refused("memory is used in another stream before it is there", [] {
        Gpu gpu(0);
        void* other;
        cuStreamCreate(&other, 1);
        Gate gate;
        gate.close(gpu.stream);
        Address late;
        cuMemAllocAsync(&late, 64, gpu.stream);
        cuMemsetD8Async(late, 0, 64, other);
        cuStreamSynchronize(other);
    });
    expect_refused("memory is used after it was given back", [] {
        Gpu gpu(0);
        cuMemFreeAsync(gpu.memory, gpu.stream);
        cuMemsetD8Async(gpu.memory, 0, BYTES, gpu.stream);
        cuStreamSynchronize(gpu.stream);
    });
    expect_refused("more bytes are written than there are", [] {
        Gpu gpu(0);
        cuMemsetD8Async(gpu.memory, 0, BYTES + 1, gpu.stream);
        cuStreamSynchronize(gpu.stream);
    });
    setenv("ASYNCDIFF_EMULATED_MEMORY_BYTES", "3000000", 1);
    Gpu gpu(1);
    Address second, third, fourth;
    expect(cuMemAllocAsync(&second, BYTES, gpu.stream) == 0 && cuMemAllocAsync(&third, BYTES, gpu.stream) == 2, "memory has an end");
    cuMemFreeAsync(second, gpu.stream);
    expect(cuMemAllocAsync(&fourth, BYTES, gpu.stream) == 0, "a stream takes again what it has given back");
    unsetenv("ASYNCDIFF_EMULATED_MEMORY_BYTES");
}

void check_graphs() {
    Gpu gpu(0);
    void *graph, *executable;
    cuStreamBeginCapture_v2(gpu.stream, 1);
    cuMemsetD8Async(gpu.memory, 3, BYTES, gpu.stream);
    cuMemcpyDtoHAsync_v2(gpu.pinned, gpu.memory, BYTES, gpu.stream);
    expect(cuStreamEndCapture(gpu.stream, &graph) == 0 && cuGraphInstantiateWithFlags(&executable, graph, 0) == 0, "a graph is captured");
    cuStreamSynchronize(gpu.stream);
    expect(gpu.first() == 0xff, "what is captured is not carried out");
    for (int launch = 0; launch < 2; launch++) {
        memset(gpu.pinned, 0, BYTES);
        cuGraphLaunch(executable, gpu.stream);
        cuStreamSynchronize(gpu.stream);
        expect(gpu.first() == 3, "a graph is carried out at each launch");
    }
    cuStreamBeginCapture_v2(gpu.stream, 1);
    Address memory;
    expect(cuMemAlloc_v2(&memory, 64) == 900 && cuStreamEndCapture(gpu.stream, &graph) == 901, "an allocation spoils a capture");
}

void* join(int rank, const Id& id) {
    void* communicator;
    expect(ncclCommInitRank(&communicator, 2, id, rank) == 0, "a communicator is made");
    return communicator;
}

// Sends a byte's value to the other rank and receives its value.
void exchange(Gpu& gpu, void* communicator, int rank) {
    Address received;
    cuMemAllocAsync(&received, BYTES, gpu.stream);
    cuMemsetD8Async(gpu.memory, (unsigned char)(40 + rank), BYTES, gpu.stream);
    ncclGroupStart();
    ncclSend((void*)gpu.memory, BYTES, UINT8, 1 - rank, communicator, gpu.stream);
    ncclRecv((void*)received, BYTES, UINT8, 1 - rank, communicator, gpu.stream);
    expect(ncclGroupEnd() == 0, "a group is handed over");
    cuMemcpyDtoHAsync_v2(gpu.pinned, received, BYTES, gpu.stream);
    cuStreamSynchronize(gpu.stream);
    expect(gpu.first() == 41 - rank && ((unsigned char*)gpu.pinned)[BYTES - 1] == 41 - rank, "bytes arrive");
}

void check_one_process() {
    Id id;
    ncclGetUniqueId(&id);
    std::thread second([id] {
        Gpu gpu(1);
        exchange(gpu, join(1, id), 1);
    });
    Gpu gpu(0);
    exchange(gpu, join(0, id), 0);
    second.join();
    ncclGetUniqueId(&id);
    int results[2];
    std::thread same([&] {
        Gpu gpu(0);
        void* communicator;
        results[1] = ncclCommInitRank(&communicator, 2, id, 1);
    });
    void* communicator;
    results[0] = ncclCommInitRank(&communicator, 2, id, 0);
    same.join();
    expect(results[0] == 5 && results[1] == 5, "two ranks on one GPU are refused");
}

void check_two_processes() {
    int ways[2];
    expect(pipe(ways) == 0, "a pipe");
    const pid_t child = fork();
    Id id;
    if (child == 0) {
        Gpu gpu(1);
        expect(read(ways[0], &id, sizeof(id)) == sizeof(id), "the id arrives");
        void* communicator = join(1, id);
        exchange(gpu, communicator, 1);
        // Takes nothing of what comes then, and dies.
        sleep_ms(100);
        _exit(0);
    }
    Gpu gpu(0);
    ncclGetUniqueId(&id);
    expect(write(ways[1], &id, sizeof(id)) == sizeof(id), "the id is sent");
    void *communicator = join(0, id), *event;
    exchange(gpu, communicator, 0);
    cuEventCreate(&event, 2);
    ncclSend((void*)gpu.memory, BYTES, UINT8, 1, communicator, gpu.stream);
    cuEventRecord(event, gpu.stream);
    sleep_ms(50);
    expect(cuEventQuery(event) == 600, "a send without a receive goes on");
    int status, error;
    waitpid(child, &status, 0);
    expect(status == 0, "the other process ends well");
    sleep_ms(50);
    expect(cuEventQuery(event) == 600 && ncclCommGetAsyncError(communicator, &error) == 0 && error == 0, "a peer's death is not noticed");
    ncclCommAbort(communicator);
    cuStreamSynchronize(gpu.stream);
    expect(cuEventQuery(event) == 0, "a stream goes on after its communicator was aborted");
}

}  // namespace

// Each in a process of its own: what forks must have no threads.
int main() {
    for (void (*check)() : {check_streams, check_memory, check_graphs, check_one_process, check_two_processes}) {
        const pid_t child = fork();
        if (child == 0) {
            check();
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
        if (status != 0) return 1;
    }
    puts("the emulation does what it says");
}
