// NCCL between the GPUs of one machine, in one process or several: what its parts know of each other.
//
// As NCCL does it: a send ends when its receive has been posted and has taken the bytes, both in their streams' order. The first transfer with a peer in
// a direction is set up by the hosts of both: a blocking communicator's call waits for the peer's. What one that does not block was given comes
// to its stream a moment after the call, and may not be counted on before its state is success. A peer that dies or aborts is not
// noticed: the stream hangs until it is aborted too. Nothing but sends and receives is emulated.

#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "emulated.hpp"

namespace nccl {

// Numbers of `ncclResult_t`.
enum Result : int {
    SUCCESS = 0,
    UNHANDLED_CUDA_ERROR = 1,
    SYSTEM_ERROR = 2,
    INVALID_ARGUMENT = 4,
    INVALID_USAGE = 5,
    IN_PROGRESS = 7,
};

enum class Direction : uint32_t { RECEIVE, SEND };

// A socket for each direction, whose sender writes lengths and bytes, and whose receiver writes when it is ready. -1 to oneself.
struct Peer {
    int socket[2] = {-1, -1};
    bool is_set_up[2] = {false, false};
};

struct Operation {
    Direction direction;
    char* bytes;
    size_t count;
    int peer;
};

struct Communicator {
    int rank, ranks, device;
    bool is_blocking;
    std::string id;
    std::vector<Peer> peers;
    std::atomic<bool> is_aborted = false;

    std::mutex mutex;
    std::condition_variable changed;
    // Success, in progress, or the first error.
    int state = SUCCESS;
    std::string last_error;
    // Transfers that were handed over and have not ended.
    unsigned pending = 0;
    // What works with the sockets now.
    unsigned working = 0;
    // The stream that its transfers are in.
    emulated::Stream* stream = nullptr;

    ~Communicator();
    // Keeps the first error, and says it.
    int fail(Result result, const std::string& what);
    void set_state(int result);
    int current_state();
};

using Shared = std::shared_ptr<Communicator>;

// Finds all peers; returns success or what became of it. Ends early when the communicator is aborted.
int connect(Communicator& communicator);

// Sets up what these operations are the first to need, together with the peers' hosts.
int set_up(Communicator& communicator, const std::vector<Operation>& operations);

// Carries operations out, all at once. In their stream's order.
void transfer(Communicator& communicator, const std::vector<Operation>& operations);

// Waits a moment for one of the sockets to become readable or writable.
struct Interest {
    int socket;
    short events;
};
void wait_for_any(const std::vector<Interest>& interests);

}  // namespace nccl
