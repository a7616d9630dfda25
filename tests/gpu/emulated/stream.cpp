// Streams and events. A stream is a thread that carries out its queue in order, now and then a moment late.

#include <algorithm>
#include <set>

#include "driver.hpp"

namespace emulated {

namespace {

// Every how many pieces of work, about, there is a delay.
constexpr uint64_t DELAYED_ONE_OF = 16;

struct Event {
    Context* context;
    bool has_time;
    // Null before it is recorded.
    std::shared_ptr<Mark> mark;
    // Recorded in a capture it is no place in a stream, but one in a graph.
    std::weak_ptr<Capture> captured;
    bool was_captured = false;
};

struct Registry {
    std::mutex mutex;
    std::set<Stream*> streams;
    std::set<Event*> events;
    // Of destroyed streams whose work is not done.
    std::multiset<Context*> ending;
    std::condition_variable ended;
    uint64_t started = 0;
};

Registry& registry() {
    static Registry* of_process = new Registry;
    return *of_process;
}

void run(Stream* stream) {
    std::unique_lock<std::mutex> lock(stream->mutex);
    for (;;) {
        stream->changed.wait(lock, [stream] { return stream->ends || !stream->queue.empty(); });
        if (stream->queue.empty()) break;
        Work work = std::move(stream->queue.front());
        stream->queue.pop_front();
        lock.unlock();
        stream->delay();
        work();
        // What it held may lock the stream when it goes.
        work = nullptr;
        lock.lock();
        stream->done++;
        stream->changed.notify_all();
    }
    lock.unlock();
    std::lock_guard<std::mutex> of_registry(registry().mutex);
    registry().ending.erase(registry().ending.find(stream->context));
    registry().ended.notify_all();
    delete stream;
}

std::vector<Stream*> streams_of(Context* context) {
    std::lock_guard<std::mutex> lock(registry().mutex);
    std::vector<Stream*> found;
    for (Stream* stream : registry().streams) {
        if (stream->context == context) found.push_back(stream);
    }
    return found;
}

// Its thread carries out what is left and deletes it.
void end(Stream* stream) {
    {
        std::lock_guard<std::mutex> lock(registry().mutex);
        registry().streams.erase(stream);
        registry().ending.insert(stream->context);
    }
    std::lock_guard<std::mutex> lock(stream->mutex);
    stream->ends = true;
    stream->changed.notify_all();
}

Event* event_of(Event* event) {
    std::lock_guard<std::mutex> lock(registry().mutex);
    if (!registry().events.count(event)) refuse("an event that does not exist, or no more");
    return event;
}

}  // namespace

void Mark::pass() {
    std::lock_guard<std::mutex> lock(mutex);
    is_passed = true;
    at = Clock::now();
    changed.notify_all();
}

void Mark::wait() {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [this] { return is_passed; });
}

bool Mark::has_passed() {
    std::lock_guard<std::mutex> lock(mutex);
    return is_passed;
}

void Stream::hand_over(Work work) {
    std::lock_guard<std::mutex> lock(mutex);
    queue.push_back(std::move(work));
    handed_over++;
    changed.notify_all();
}

void Stream::wait() {
    std::unique_lock<std::mutex> lock(mutex);
    const uint64_t until = handed_over;
    changed.wait(lock, [this, until] { return done >= until; });
}

void Stream::delay() {
    static const uint64_t longest = setting("ASYNCDIFF_EMULATED_DELAY_US", 200);
    const uint64_t chosen = random();
    if (longest == 0 || chosen % DELAYED_ONE_OF != 0) return;
    std::this_thread::sleep_for(std::chrono::microseconds(chosen / DELAYED_ONE_OF % (longest + 1)));
}

Stream* start_stream(Context* context) {
    std::lock_guard<std::mutex> lock(registry().mutex);
    Stream* stream = new Stream(context, registry().started++);
    registry().streams.insert(stream);
    std::thread([stream] { run(stream); }).detach();
    return stream;
}

void end_streams(Context* context) {
    for (Stream* stream : streams_of(context)) end(stream);
}

void wait_for_streams(Context* context) {
    for (Stream* stream : streams_of(context)) stream->wait();
    std::unique_lock<std::mutex> lock(registry().mutex);
    registry().ended.wait(lock, [context] { return registry().ending.count(context) == 0; });
}

Stream* stream_of(void* handle) {
    if (!handle) {
        Code code;
        Context* context = bound(&code);
        if (!context) refuse("the default stream of a thread without a context");
        return context->default_stream;
    }
    std::lock_guard<std::mutex> lock(registry().mutex);
    Stream* stream = static_cast<Stream*>(handle);
    if (!registry().streams.count(stream)) refuse("a stream that does not exist, or no more");
    return stream;
}

int device_of(const Stream* stream) { return stream->context->device; }

}  // namespace emulated

using namespace emulated;

EXPORTED int cuStreamCreate(void** stream, unsigned flags) {
    BOUND(context);
    if (flags != 1) refuse("streams that wait for the default stream are not emulated: create them with CU_STREAM_NON_BLOCKING");
    *stream = start_stream(context);
    return SUCCESS;
}

EXPORTED int cuStreamCreateWithPriority(void** stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }

EXPORTED int cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    *least = 0;
    *greatest = -5;
    return SUCCESS;
}

EXPORTED int cuStreamDestroy_v2(void* handle) {
    if (!handle) return INVALID_HANDLE;
    Stream* stream = stream_of(handle);
    if (is_capturing(stream)) return complain(CAPTURE_UNSUPPORTED, "a stream is destroyed while it is captured");
    end(stream);
    return SUCCESS;
}

EXPORTED int cuStreamSynchronize(void* handle) {
    BOUND(context);
    Stream* stream = stream_of(handle);
    if (is_capturing(stream)) return forbidden_by_capture("cuStreamSynchronize");
    stream->wait();
    return SUCCESS;
}

EXPORTED int cuStreamQuery(void* handle) {
    BOUND(context);
    Stream* stream = stream_of(handle);
    if (is_capturing(stream)) return forbidden_by_capture("cuStreamQuery");
    std::lock_guard<std::mutex> lock(stream->mutex);
    return stream->done == stream->handed_over ? SUCCESS : NOT_READY;
}

EXPORTED int cuStreamWaitEvent(void* handle, Event* handle_of_event, unsigned) {
    Stream* stream = stream_of(handle);
    Event* event = event_of(handle_of_event);
    const std::shared_ptr<Capture> captured = event->captured.lock();
    if (captured && captured == stream->capture) return SUCCESS;
    if (captured) refuse("a capture of several streams is not emulated");
    if (event->was_captured) return complain(CAPTURED_EVENT, "a stream waits for an event of a capture that has ended");
    if (!event->mark) return SUCCESS;
    if (stream->capture) {
        stream->capture->is_invalid = true;
        return complain(CAPTURE_ISOLATION, "a stream that is captured waits for an event from outside of the capture");
    }
    stream->hand_over([mark = event->mark] { mark->wait(); });
    return SUCCESS;
}

EXPORTED int cuLaunchHostFunc(void* handle, void (*function)(void*), void* data) {
    enqueue(stream_of(handle), [=] { function(data); });
    return SUCCESS;
}

EXPORTED int cuEventCreate(Event** event, unsigned flags) {
    BOUND(context);
    constexpr unsigned DISABLE_TIMING = 2, INTERPROCESS = 4;
    if (flags & INTERPROCESS) refuse("events between processes are not emulated");
    Event* made = new Event{context, (flags & DISABLE_TIMING) == 0, nullptr, {}};
    std::lock_guard<std::mutex> lock(registry().mutex);
    registry().events.insert(made);
    *event = made;
    return SUCCESS;
}

EXPORTED int cuEventDestroy_v2(Event* event) {
    event_of(event);
    {
        std::lock_guard<std::mutex> lock(registry().mutex);
        registry().events.erase(event);
    }
    // Whoever waits for the mark shares it.
    delete event;
    return SUCCESS;
}

EXPORTED int cuEventRecord(Event* handle_of_event, void* handle) {
    BOUND(context);
    Stream* stream = stream_of(handle);
    Event* event = event_of(handle_of_event);
    if (event->context != stream->context) return complain(INVALID_HANDLE, "an event of one GPU is recorded in a stream of another");
    event->captured = stream->capture;
    event->was_captured = (bool)stream->capture;
    event->mark = nullptr;
    if (stream->capture) return SUCCESS;
    event->mark = std::make_shared<Mark>();
    stream->hand_over([mark = event->mark] { mark->pass(); });
    return SUCCESS;
}

EXPORTED int cuEventQuery(Event* handle) {
    Event* event = event_of(handle);
    if (int code = forbidden_by_capture("cuEventQuery")) return code;
    if (event->was_captured) return complain(CAPTURED_EVENT, "an event of a capture is asked for");
    return !event->mark || event->mark->has_passed() ? SUCCESS : NOT_READY;
}

EXPORTED int cuEventSynchronize(Event* handle) {
    Event* event = event_of(handle);
    if (int code = forbidden_by_capture("cuEventSynchronize")) return code;
    if (event->was_captured) return complain(CAPTURED_EVENT, "an event of a capture is waited for");
    if (const std::shared_ptr<Mark> mark = event->mark) mark->wait();
    return SUCCESS;
}

EXPORTED int cuEventElapsedTime_v2(float* milliseconds, Event* handle_of_start, Event* handle_of_end) {
    Event *start = event_of(handle_of_start), *end = event_of(handle_of_end);
    if (!start->has_time || !end->has_time || !start->mark || !end->mark) {
        return complain(INVALID_HANDLE, "the time between events that were not recorded, or were made without time");
    }
    if (!start->mark->has_passed() || !end->mark->has_passed()) return NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(end->mark->at - start->mark->at).count();
    return SUCCESS;
}

EXPORTED int cuEventElapsedTime(float* milliseconds, Event* start, Event* end) { return cuEventElapsedTime_v2(milliseconds, start, end); }
