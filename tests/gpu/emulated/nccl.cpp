// NCCL's interface: communicators and groups.

#include "nccl.hpp"

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <set>
#include <thread>

namespace nccl {

namespace {

// 2.30.7.
constexpr int VERSION = 23007;
constexpr unsigned MAGIC = 0xcafebeef;

// How long, at most, what a communicator that does not block was given takes to come to its stream.
constexpr unsigned LATE_US = 500;

// `ncclConfig_t` as far as it has been in all versions that there are.
struct Config {
    size_t size;
    unsigned magic, version;
    int is_blocking;
};

struct UniqueId {
    char text[128];
};

// Users hold pointers to these.
struct Handle {
    Shared communicator;
};

struct Given {
    Shared communicator;
    emulated::Stream* stream;
    Operation operation;
};

// Of a thread.
struct Group {
    int depth = 0;
    int error = SUCCESS;
    std::vector<Given> given;
    std::vector<Shared> begun;
};

thread_local Group group;
thread_local std::string last_error;

struct Registry {
    std::mutex mutex;
    std::set<Handle*> handles;
};

Registry& registry() {
    static Registry* of_process = new Registry;
    return *of_process;
}

Shared shared(Handle* handle) {
    std::lock_guard<std::mutex> lock(registry().mutex);
    if (!registry().handles.count(handle)) emulated::refuse("NCCL: a communicator that does not exist, or no more");
    return handle->communicator;
}

int complain(Result result, const std::string& what) {
    last_error = what;
    return emulated::complain((emulated::Code)result, "NCCL: %s", what.c_str());
}

size_t bytes_of(int type) {
    static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    if (type < 0 || (size_t)type >= sizeof(sizes) / sizeof(*sizes)) emulated::refuse("NCCL: type %d", type);
    return sizes[type];
}

// Counts work with a communicator while it lasts, so that an abort can wait for it.
struct Working {
    Communicator& communicator;

    explicit Working(Communicator& communicator) : communicator(communicator) {
        std::lock_guard<std::mutex> lock(communicator.mutex);
        communicator.working++;
    }

    ~Working() {
        std::lock_guard<std::mutex> lock(communicator.mutex);
        communicator.working--;
        communicator.changed.notify_all();
    }
};

// Hands a communicator's operations to its stream once its peers are ready for them.
int submit(const Shared& communicator, emulated::Stream* stream, const std::vector<Operation>& operations) {
    const Working working(*communicator);
    if (int result = set_up(*communicator, operations)) return result;
    if (!communicator->is_blocking) {
        static std::atomic<uint64_t> submissions = 0;
        std::this_thread::sleep_for(std::chrono::microseconds(emulated::chance(submissions++)() % LATE_US));
    }
    {
        std::lock_guard<std::mutex> lock(communicator->mutex);
        communicator->pending++;
    }
    emulated::enqueue(stream, [communicator, operations] {
        {
            const Working working(*communicator);
            transfer(*communicator, operations);
        }
        std::lock_guard<std::mutex> lock(communicator->mutex);
        communicator->pending--;
        communicator->changed.notify_all();
    });
    return SUCCESS;
}

// Runs for each communicator of a group what takes its peers' hosts, all at once; those that do not block are not waited for.
int run_jobs(const std::vector<std::pair<Shared, std::function<int()>>>& jobs) {
    std::vector<std::thread> waited;
    std::atomic<int> result = SUCCESS;
    for (const auto& [communicator, job] : jobs) {
        if (communicator->is_blocking) {
            waited.emplace_back([&result, &job = job] {
                if (int code = job()) result = code;
            });
        } else {
            communicator->set_state(IN_PROGRESS);
            std::thread([communicator = communicator, job = job] { communicator->set_state(job()); }).detach();
        }
    }
    for (std::thread& thread : waited) thread.join();
    const auto is_waited = [](const auto& job) { return job.first->is_blocking; };
    if (result == SUCCESS && !std::all_of(jobs.begin(), jobs.end(), is_waited)) return IN_PROGRESS;
    return result;
}

int end_group() {
    Group ended;
    std::swap(ended, group);
    if (ended.error) return ended.error;
    std::vector<std::pair<Shared, std::function<int()>>> jobs;
    for (const Shared& begun : ended.begun) {
        jobs.emplace_back(begun, [begun] {
            const Working working(*begun);
            return connect(*begun);
        });
    }
    std::set<Shared> seen;
    for (const Given& first : ended.given) {
        if (!seen.insert(first.communicator).second) continue;
        std::vector<Operation> operations;
        for (const Given& given : ended.given) {
            if (given.communicator != first.communicator) continue;
            if (given.stream != first.stream) emulated::refuse("NCCL: a communicator in two streams is not emulated");
            operations.push_back(given.operation);
        }
        jobs.emplace_back(first.communicator,
                          [communicator = first.communicator, stream = first.stream, operations] { return submit(communicator, stream, operations); });
    }
    return run_jobs(jobs);
}

int give(Direction direction, const void* bytes, size_t elements, int type, int peer, Handle* handle, void* handle_of_stream) {
    const Shared communicator = shared(handle);
    const auto refused = [](Result result, const std::string& what) {
        if (group.depth) group.error = result;
        return complain(result, what);
    };
    if (peer < 0 || peer >= communicator->ranks) return refused(INVALID_ARGUMENT, "a rank that is none of the communicator");
    if (communicator->current_state() == IN_PROGRESS) {
        return refused(INVALID_ARGUMENT, "Attempt to use communicator before the previous operation returned ncclSuccess");
    }
    if (int state = communicator->current_state()) return refused((Result)state, "a communicator that has failed");
    emulated::Stream* stream = emulated::stream_of(handle_of_stream);
    if (emulated::device_of(stream) != communicator->device) return refused(INVALID_USAGE, "a stream of another GPU than the communicator's");
    if (communicator->stream && communicator->stream != stream) emulated::refuse("NCCL: a communicator in two streams is not emulated");
    communicator->stream = stream;
    const Operation operation = {direction, (char*)bytes, elements * bytes_of(type), peer};
    group.given.push_back({communicator, stream, operation});
    return group.depth ? SUCCESS : end_group();
}

void wait_until_idle(Communicator& communicator) {
    std::unique_lock<std::mutex> lock(communicator.mutex);
    communicator.changed.wait(lock, [&communicator] { return communicator.pending == 0 || communicator.is_aborted; });
}

void forget(Handle* handle) {
    std::lock_guard<std::mutex> lock(registry().mutex);
    registry().handles.erase(handle);
    delete handle;
}

}  // namespace

}  // namespace nccl

using namespace nccl;

EXPORTED int ncclGetVersion(int* version) {
    *version = VERSION;
    return SUCCESS;
}

EXPORTED int ncclGetUniqueId(UniqueId* id) {
    memset(id, 0, sizeof(*id));
    uint64_t words[2];
    std::ifstream("/dev/urandom").read((char*)words, sizeof(words));
    snprintf(id->text, sizeof(id->text), "emulated-nccl-%016llx%016llx", (unsigned long long)words[0], (unsigned long long)words[1]);
    return SUCCESS;
}

EXPORTED int ncclCommInitRankConfig(Handle** handle, int ranks, UniqueId id, int rank, const Config* config) {
    *handle = nullptr;
    if (ranks < 1 || rank < 0 || rank >= ranks) return complain(INVALID_ARGUMENT, "a rank that is none of the communicator");
    if (config && config->magic != MAGIC) return complain(INVALID_ARGUMENT, "a configuration without its magic number");
    if (strncmp(id.text, "emulated-nccl-", 14) != 0) return complain(INVALID_ARGUMENT, "a unique id that ncclGetUniqueId has not made");
    const int device = emulated::current_device();
    if (device < 0) return complain(UNHANDLED_CUDA_ERROR, "the thread has no context");
    const Shared made = std::make_shared<Communicator>();
    made->rank = rank, made->ranks = ranks, made->device = device;
    made->is_blocking = !config || config->is_blocking != 0;
    made->id = std::string(id.text, strnlen(id.text, sizeof(id.text)));
    made->peers.resize((size_t)ranks);
    *handle = new Handle{made};
    {
        std::lock_guard<std::mutex> lock(registry().mutex);
        registry().handles.insert(*handle);
    }
    group.begun.push_back(made);
    if (group.depth) return SUCCESS;
    const int result = end_group();
    if (result != SUCCESS && result != IN_PROGRESS) {
        last_error = made->last_error;
        forget(*handle);
        *handle = nullptr;
    }
    return result;
}

EXPORTED int ncclCommInitRank(Handle** handle, int ranks, UniqueId id, int rank) { return ncclCommInitRankConfig(handle, ranks, id, rank, nullptr); }

EXPORTED int ncclGroupStart() {
    group.depth++;
    return SUCCESS;
}

EXPORTED int ncclGroupEnd() {
    if (group.depth == 0) return complain(INVALID_USAGE, "a group ends that did not begin");
    return --group.depth ? SUCCESS : end_group();
}

EXPORTED int ncclSend(const void* bytes, size_t elements, int type, int peer, Handle* handle, void* stream) {
    return give(Direction::SEND, bytes, elements, type, peer, handle, stream);
}

EXPORTED int ncclRecv(void* bytes, size_t elements, int type, int peer, Handle* handle, void* stream) {
    return give(Direction::RECEIVE, bytes, elements, type, peer, handle, stream);
}

EXPORTED int ncclCommGetAsyncError(Handle* handle, int* error) {
    *error = shared(handle)->current_state();
    return SUCCESS;
}

// Ends what is under way, with the bytes that are there. Peers are not told.
EXPORTED int ncclCommAbort(Handle* handle) {
    const Shared communicator = shared(handle);
    communicator->is_aborted = true;
    communicator->set_state(INVALID_USAGE);
    {
        std::unique_lock<std::mutex> lock(communicator->mutex);
        communicator->changed.wait(lock, [&communicator] { return communicator->working == 0; });
    }
    forget(handle);
    return SUCCESS;
}

EXPORTED int ncclCommFinalize(Handle* handle) {
    const Shared communicator = shared(handle);
    return run_jobs({{communicator, [communicator] {
                          wait_until_idle(*communicator);
                          return (int)SUCCESS;
                      }}});
}

EXPORTED int ncclCommDestroy(Handle* handle) {
    wait_until_idle(*shared(handle));
    forget(handle);
    return SUCCESS;
}

EXPORTED int ncclCommCount(Handle* handle, int* ranks) {
    *ranks = shared(handle)->ranks;
    return SUCCESS;
}

EXPORTED int ncclCommCuDevice(Handle* handle, int* device) {
    *device = shared(handle)->device;
    return SUCCESS;
}

EXPORTED int ncclCommUserRank(Handle* handle, int* rank) {
    *rank = shared(handle)->rank;
    return SUCCESS;
}

EXPORTED const char* ncclGetErrorString(int result) {
    switch (result) {
        case SUCCESS:
            return "no error";
        case UNHANDLED_CUDA_ERROR:
            return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
        case SYSTEM_ERROR:
            return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
        case INVALID_ARGUMENT:
            return "invalid argument (run with NCCL_DEBUG=WARN for details)";
        case INVALID_USAGE:
            return "invalid usage (run with NCCL_DEBUG=WARN for details)";
        case IN_PROGRESS:
            return "NCCL operation in progress";
        default:
            return "unknown result code";
    }
}

// Until the thread's next call.
EXPORTED const char* ncclGetLastError(Handle* handle) {
    static thread_local std::string text;
    text = last_error;
    if (handle) {
        const Shared communicator = shared(handle);
        std::lock_guard<std::mutex> lock(communicator->mutex);
        if (!communicator->last_error.empty()) text = communicator->last_error;
    }
    return text.c_str();
}
