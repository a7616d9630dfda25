// Device memory and pinned memory.
//
// Memory that was allocated in a stream's order is there once the stream has come so far, and gone once it has come to its end: whoever uses it
// in another order is found out. It lies at multiples of 256 bytes and never at one of 512, since more was never promised.

#include <cstdlib>
#include <cstring>
#include <map>

#include "driver.hpp"

namespace emulated {

namespace {

constexpr size_t GRAIN = 256;
// NaN in every format.
constexpr int NOTHING = 0xff;

struct Allocation {
    // What was asked for from the host.
    void* base;
    size_t bytes;
    // -1: pinned memory of the host.
    int device;
    // Whether the stream that it was allocated in has come so far.
    bool is_there;
    bool is_going;
};

struct Memory {
    std::mutex mutex;
    std::map<Address, Allocation> allocations;
    // By GPU.
    std::map<int, size_t> used;
};

Memory& memory() {
    static Memory* of_process = new Memory;
    return *of_process;
}

size_t total_bytes() { return setting("ASYNCDIFF_EMULATED_MEMORY_BYTES", 8ull << 30); }

// By memory's lock. Null if no allocation holds all of it.
std::pair<const Address, Allocation>* find(Address address, size_t bytes) {
    auto& allocations = memory().allocations;
    auto after = allocations.upper_bound(address);
    if (after == allocations.begin()) return nullptr;
    auto& found = *--after;
    return address + bytes <= found.first + found.second.bytes ? &found : nullptr;
}

// By memory's lock.
Address take(size_t bytes, int device, bool is_there) {
    const size_t rounded = (bytes + GRAIN - 1) / GRAIN * GRAIN;
    void* base = aligned_alloc(2 * GRAIN, rounded + 3 * GRAIN);
    if (!base) refuse("the host has no %zu bytes for an emulated GPU", bytes);
    const Address address = (Address)base + GRAIN;
    memset((void*)address, NOTHING, bytes);
    memory().allocations[address] = Allocation{base, bytes, device, is_there, false};
    memory().used[device] += bytes;
    return address;
}

// By memory's lock.
void give_back(Address address) {
    const Allocation allocation = memory().allocations.at(address);
    memory().used[allocation.device] -= allocation.bytes;
    memory().allocations.erase(address);
    memset((void*)address, NOTHING, allocation.bytes);
    free(allocation.base);
}

// By memory's lock: what is to be given back, which must be there and not be given back already.
Allocation& leaving(Address address, bool is_pinned) {
    const auto found = memory().allocations.find(address);
    if (found == memory().allocations.end() || (found->second.device < 0) != is_pinned) refuse("memory is given back that is not allocated");
    if (found->second.is_going) refuse("memory is given back twice");
    found->second.is_going = true;
    return found->second;
}

int allocate(Address* address, size_t bytes, const Context* context) {
    if (bytes == 0) return complain(INVALID_VALUE, "no bytes are allocated");
    std::lock_guard<std::mutex> lock(memory().mutex);
    if (memory().used[context->device] + bytes > total_bytes()) return OUT_OF_MEMORY;
    *address = take(bytes, context->device, true);
    return SUCCESS;
}

int pin(void** address, size_t bytes) {
    if (bytes == 0) return complain(INVALID_VALUE, "no bytes are pinned");
    std::lock_guard<std::mutex> lock(memory().mutex);
    *address = (void*)take(bytes, -1, true);
    return SUCCESS;
}

}  // namespace

bool find_memory(int device, Address address, Address* begin, size_t* bytes) {
    std::lock_guard<std::mutex> lock(memory().mutex);
    const auto* found = find(address, 0);
    if (!found || !found->second.is_there || (found->second.device != device && found->second.device >= 0)) return false;
    *begin = found->first;
    *bytes = found->second.bytes;
    return true;
}

void check_memory(int device, const void* begin, size_t bytes, const char* what) {
    std::lock_guard<std::mutex> lock(memory().mutex);
    const auto* found = find((Address)begin, bytes);
    if (!found) refuse("%s: %zu bytes at %p are not within allocated memory", what, bytes, begin);
    if (!found->second.is_there) refuse("%s: memory before the stream that it was allocated in has come so far", what);
    if (found->second.device != device) refuse("%s: %p is memory of GPU %d, not of %d", what, begin, found->second.device, device);
}

void forget_memory(int device) {
    std::lock_guard<std::mutex> lock(memory().mutex);
    std::vector<Address> gone;
    for (const auto& [address, allocation] : memory().allocations) {
        if (allocation.device == device) gone.push_back(address);
    }
    for (Address address : gone) give_back(address);
}

}  // namespace emulated

using namespace emulated;

EXPORTED int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
    BOUND(context);
    std::lock_guard<std::mutex> lock(memory().mutex);
    *total = total_bytes();
    *free_bytes = *total - memory().used[context->device];
    return SUCCESS;
}

EXPORTED int cuMemAlloc_v2(Address* address, size_t bytes) {
    BOUND(context);
    if (int code = forbidden_by_capture("cuMemAlloc")) return code;
    return allocate(address, bytes, context);
}

// Waits for the GPU, as the driver does.
EXPORTED int cuMemFree_v2(Address address) {
    BOUND(context);
    if (int code = forbidden_by_capture("cuMemFree")) return code;
    wait_for_streams(context);
    std::lock_guard<std::mutex> lock(memory().mutex);
    leaving(address, false);
    give_back(address);
    return SUCCESS;
}

EXPORTED int cuMemAllocAsync(Address* address, size_t bytes, void* handle) {
    Stream* stream = stream_of(handle);
    if (is_capturing(stream)) refuse("memory that a graph allocates is not emulated: allocate before the capture");
    if (bytes == 0) return complain(INVALID_VALUE, "no bytes are allocated");
    const int device = device_of(stream);
    {
        std::lock_guard<std::mutex> lock(memory().mutex);
        // What this stream gives back before it comes to the new memory is there for it.
        if (memory().used[device] - stream->coming_free + bytes > total_bytes()) return OUT_OF_MEMORY;
        *address = take(bytes, device, false);
    }
    count("bytes allocated", bytes);
    stream->hand_over([address = *address] {
        std::lock_guard<std::mutex> lock(memory().mutex);
        memory().allocations.at(address).is_there = true;
    });
    return SUCCESS;
}

EXPORTED int cuMemAllocFromPoolAsync(Address* address, size_t bytes, void*, void* stream) { return cuMemAllocAsync(address, bytes, stream); }

EXPORTED int cuMemFreeAsync(Address address, void* handle) {
    Stream* stream = stream_of(handle);
    if (is_capturing(stream)) refuse("memory that a graph gives back is not emulated: keep it until the capture has ended");
    std::lock_guard<std::mutex> lock(memory().mutex);
    const Allocation& allocation = leaving(address, false);
    if (allocation.device != device_of(stream)) refuse("memory of GPU %d is given back in a stream of another", allocation.device);
    const size_t bytes = allocation.bytes;
    stream->coming_free += bytes;
    stream->hand_over([address, stream, bytes] {
        std::lock_guard<std::mutex> lock(memory().mutex);
        stream->coming_free -= bytes;
        if (!memory().allocations.at(address).is_there) refuse("memory is given back before the stream that it was allocated in has come so far");
        give_back(address);
    });
    return SUCCESS;
}

EXPORTED int cuMemHostAlloc(void** address, size_t bytes, unsigned) {
    BOUND(context);
    if (int code = forbidden_by_capture("cuMemHostAlloc")) return code;
    return pin(address, bytes);
}

EXPORTED int cuMemAllocHost_v2(void** address, size_t bytes) { return cuMemHostAlloc(address, bytes, 0); }

// Does not wait: copies that are still to come find out.
EXPORTED int cuMemFreeHost(void* address) {
    BOUND(context);
    if (int code = forbidden_by_capture("cuMemFreeHost")) return code;
    std::lock_guard<std::mutex> lock(memory().mutex);
    leaving((Address)address, true);
    give_back((Address)address);
    return SUCCESS;
}

EXPORTED int cuMemHostGetDevicePointer_v2(Address* address, void* pinned, unsigned) {
    *address = (Address)pinned;
    return SUCCESS;
}

// Pools are one pool that keeps nothing.
EXPORTED int cuDeviceGetDefaultMemPool(void** pool, int) {
    static char the_pool;
    *pool = &the_pool;
    return SUCCESS;
}

EXPORTED int cuDeviceGetMemPool(void** pool, int device) { return cuDeviceGetDefaultMemPool(pool, device); }

EXPORTED int cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }

EXPORTED int cuMemPoolTrimTo(void*, size_t) { return SUCCESS; }
