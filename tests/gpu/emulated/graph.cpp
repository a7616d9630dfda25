// Graphs: what a stream was given while it was captured, carried out at each launch, in the order that it was given in.

#include <algorithm>
#include <set>
#include <utility>

#include "driver.hpp"

namespace emulated {

namespace {

constexpr int RELAXED = 2;
constexpr int OF_THREAD = 1;

struct Graph {
    std::vector<Work> works;
};

struct Executable {
    std::vector<Work> works;
    // Of its last launch: one waits for the other, in whichever streams they are.
    std::mutex mutex;
    std::shared_ptr<Mark> last;
};

// The library's users hold these by pointers.
using Handle = std::shared_ptr<Executable>;

struct Captures {
    std::mutex mutex;
    std::set<std::shared_ptr<Capture>> all;
};

Captures& captures() {
    static Captures* of_process = new Captures;
    return *of_process;
}

}  // namespace

bool is_capturing(const Stream* stream) { return (bool)stream->capture; }

void enqueue(Stream* stream, Work work) {
    if (stream->capture) {
        stream->capture->works.push_back(std::move(work));
    } else {
        stream->hand_over(std::move(work));
    }
}

int forbidden_by_capture(const char* call) {
    std::lock_guard<std::mutex> lock(captures().mutex);
    int code = SUCCESS;
    for (const auto& capture : captures().all) {
        const bool is_of_thread = capture->thread == std::this_thread::get_id();
        if (capture->mode == RELAXED || (capture->mode == OF_THREAD && !is_of_thread)) continue;
        capture->is_invalid = true;
        code = complain(CAPTURE_UNSUPPORTED, "%s while a stream is captured", call);
    }
    return code;
}

}  // namespace emulated

using namespace emulated;

EXPORTED int cuStreamBeginCapture_v2(void* handle, int mode) {
    BOUND(context);
    if (!handle) return complain(CAPTURE_UNSUPPORTED, "the default stream is captured");
    Stream* stream = stream_of(handle);
    if (stream->capture) return complain(INVALID_VALUE, "a stream is captured twice");
    const auto capture = std::make_shared<Capture>();
    capture->mode = mode;
    capture->thread = std::this_thread::get_id();
    stream->capture = capture;
    std::lock_guard<std::mutex> lock(captures().mutex);
    captures().all.insert(capture);
    return SUCCESS;
}

EXPORTED int cuStreamIsCapturing(void* handle, int* status) {
    const Stream* stream = stream_of(handle);
    *status = !stream->capture ? 0 : stream->capture->is_invalid ? 2 : 1;
    return SUCCESS;
}

EXPORTED int cuStreamEndCapture(void* handle, Graph** graph) {
    Stream* stream = stream_of(handle);
    *graph = nullptr;
    const std::shared_ptr<Capture> capture = stream->capture;
    if (!capture) return complain(CAPTURE_UNMATCHED, "a capture ends that did not begin");
    if (capture->mode != RELAXED && capture->thread != std::this_thread::get_id()) {
        return complain(CAPTURE_WRONG_THREAD, "a capture ends in another thread");
    }
    stream->capture = nullptr;
    {
        std::lock_guard<std::mutex> lock(captures().mutex);
        captures().all.erase(capture);
    }
    if (capture->is_invalid) return CAPTURE_INVALIDATED;
    *graph = new Graph{std::move(capture->works)};
    count("captures");
    return SUCCESS;
}

EXPORTED int cuGraphInstantiateWithFlags(Handle** executable, Graph* graph, unsigned long long) {
    *executable = new Handle(std::make_shared<Executable>());
    (**executable)->works = graph->works;
    return SUCCESS;
}

EXPORTED int cuGraphUpload(Handle*, void* stream) {
    stream_of(stream);
    return SUCCESS;
}

EXPORTED int cuGraphLaunch(Handle* handle, void* handle_of_stream) {
    BOUND(context);
    Stream* stream = stream_of(handle_of_stream);
    if (stream->capture) refuse("graphs within graphs are not emulated");
    const Handle executable = *handle;
    const auto mark = std::make_shared<Mark>();
    std::shared_ptr<Mark> before;
    {
        std::lock_guard<std::mutex> lock(executable->mutex);
        before = std::exchange(executable->last, mark);
    }
    count("graph launches");
    stream->hand_over([=] {
        if (before) before->wait();
        for (const Work& work : executable->works) {
            stream->delay();
            work();
        }
        mark->pass();
    });
    return SUCCESS;
}

EXPORTED int cuGraphGetNodes(Graph* graph, void** nodes, size_t* count) {
    if (nodes) refuse("the nodes of a graph are not emulated, but for their number");
    *count = graph->works.size();
    return SUCCESS;
}

EXPORTED int cuGraphDestroy(Graph* graph) {
    delete graph;
    return SUCCESS;
}

// What has been launched goes on.
EXPORTED int cuGraphExecDestroy(Handle* executable) {
    delete executable;
    return SUCCESS;
}
