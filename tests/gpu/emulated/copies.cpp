// Copies, which pinned memory makes asynchronous and other memory of the host does not.

#include <cstring>

#include "driver.hpp"

namespace emulated {

namespace {

bool is_pinned(const void* host, size_t bytes) {
    Address begin;
    size_t length;
    // Of no GPU: what is found is the host's.
    return find_memory(-1, (Address)host, &begin, &length) && (Address)host + bytes <= begin + length;
}

void copy_from_host(Stream* stream, Address target, const void* source, size_t bytes) {
    const int device = device_of(stream);
    count("bytes from the host", bytes);
    if (is_pinned(source, bytes)) {
        return enqueue(stream, [=] {
            check_memory(-1, source, bytes, "a copy from pinned memory");
            check_memory(device, (void*)target, bytes, "a copy from the host");
            memcpy((void*)target, source, bytes);
        });
    }
    if (is_capturing(stream)) refuse("a graph that copies from memory that is not pinned is not emulated");
    // Other memory has been read when the call returns.
    const auto staged = std::make_shared<std::vector<char>>((const char*)source, (const char*)source + bytes);
    enqueue(stream, [=] {
        check_memory(device, (void*)target, bytes, "a copy from the host");
        memcpy((void*)target, staged->data(), bytes);
    });
}

void copy_to_host(Stream* stream, void* target, Address source, size_t bytes) {
    const int device = device_of(stream);
    const bool waits = !is_pinned(target, bytes);
    count("bytes to the host", bytes);
    if (waits && is_capturing(stream)) refuse("a graph that copies to memory that is not pinned is not emulated");
    enqueue(stream, [=] {
        if (!waits) check_memory(-1, target, bytes, "a copy to pinned memory");
        check_memory(device, (void*)source, bytes, "a copy to the host");
        memcpy(target, (void*)source, bytes);
    });
    if (waits) stream->wait();
}

void copy_between(Stream* stream, Address target, int target_device, Address source, int source_device, size_t bytes) {
    enqueue(stream, [=] {
        check_memory(source_device, (void*)source, bytes, "a copy between GPU memory");
        check_memory(target_device, (void*)target, bytes, "a copy between GPU memory");
        if (source + bytes > target && target + bytes > source && bytes) refuse("a copy to memory that overlaps with its source");
        memcpy((void*)target, (void*)source, bytes);
    });
}

void fill(Stream* stream, Address target, unsigned char value, size_t bytes) {
    enqueue(stream, [=, device = device_of(stream)] {
        check_memory(device, (void*)target, bytes, "a fill");
        memset((void*)target, value, bytes);
    });
}

}  // namespace

}  // namespace emulated

using namespace emulated;

EXPORTED int cuMemcpyHtoDAsync_v2(Address target, const void* source, size_t bytes, void* stream) {
    BOUND(context);
    copy_from_host(stream_of(stream), target, source, bytes);
    return SUCCESS;
}

EXPORTED int cuMemcpyHtoD_v2(Address target, const void* source, size_t bytes) {
    BOUND(context);
    copy_from_host(context->default_stream, target, source, bytes);
    context->default_stream->wait();
    return SUCCESS;
}

EXPORTED int cuMemcpyDtoHAsync_v2(void* target, Address source, size_t bytes, void* stream) {
    BOUND(context);
    copy_to_host(stream_of(stream), target, source, bytes);
    return SUCCESS;
}

EXPORTED int cuMemcpyDtoH_v2(void* target, Address source, size_t bytes) {
    BOUND(context);
    copy_to_host(context->default_stream, target, source, bytes);
    context->default_stream->wait();
    return SUCCESS;
}

EXPORTED int cuMemcpyDtoDAsync_v2(Address target, Address source, size_t bytes, void* handle) {
    BOUND(context);
    Stream* stream = stream_of(handle);
    copy_between(stream, target, device_of(stream), source, device_of(stream), bytes);
    return SUCCESS;
}

EXPORTED int cuMemcpyDtoD_v2(Address target, Address source, size_t bytes) {
    BOUND(context);
    return cuMemcpyDtoDAsync_v2(target, source, bytes, nullptr);
}

EXPORTED int cuMemcpyPeerAsync(Address target, Context* of_target, Address source, Context* of_source, size_t bytes, void* stream) {
    BOUND(context);
    copy_between(stream_of(stream), target, of_target->device, source, of_source->device, bytes);
    return SUCCESS;
}

EXPORTED int cuMemsetD8Async(Address target, unsigned char value, size_t bytes, void* stream) {
    BOUND(context);
    fill(stream_of(stream), target, value, bytes);
    return SUCCESS;
}

EXPORTED int cuMemsetD8_v2(Address target, unsigned char value, size_t bytes) { return cuMemsetD8Async(target, value, bytes, nullptr); }
