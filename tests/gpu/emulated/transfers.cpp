// A group's sends and receives, all under way at once; those of one peer and direction one after the other.

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "nccl.hpp"

namespace nccl {

namespace {

constexpr char READY = 'r', MISMATCH = 'm';

// Bytes that a socket is given at a time.
constexpr size_t PIECE_BYTES = 1 << 20;

enum class Phase { LENGTH, ANSWER, BYTES, DONE };

struct Progress {
    const Operation* operation;
    int socket;
    Phase phase = Phase::LENGTH;
    // Of the present phase.
    size_t moved = 0;
    uint64_t length = 0;
    char answer = READY;
    // The other end is gone: nothing will come.
    bool is_stuck = false;

    bool sends() const { return operation->direction == Direction::SEND; }

    // In each phase one end writes and the other reads: the receiver answers.
    bool is_reading() const { return sends() == (phase == Phase::ANSWER); }

    std::pair<char*, size_t> part() {
        switch (phase) {
            case Phase::LENGTH:
                return {(char*)&length, sizeof(length)};
            case Phase::ANSWER:
                return {&answer, 1};
            default:
                return {operation->bytes, operation->count};
        }
    }
};

// After all of a phase's bytes.
void finish_phase(Communicator& communicator, Progress& progress) {
    progress.moved = 0;
    if (progress.phase == Phase::LENGTH) {
        progress.phase = Phase::ANSWER;
        if (!progress.sends() && progress.length != progress.operation->count) progress.answer = MISMATCH;
    } else if (progress.phase == Phase::ANSWER) {
        progress.phase = progress.answer == READY ? Phase::BYTES : Phase::DONE;
        if (progress.answer == READY) return;
        communicator.fail(INVALID_USAGE, "rank " + std::to_string(progress.operation->peer) + " and this one disagree: here " +
                                             std::to_string(progress.operation->count) + " bytes");
    } else {
        progress.phase = Phase::DONE;
    }
}

// As far as it goes without waiting.
void advance(Communicator& communicator, Progress& progress) {
    while (progress.phase != Phase::DONE) {
        const auto [bytes, count] = progress.part();
        const size_t wanted = std::min(count - progress.moved, PIECE_BYTES);
        if (wanted > 0) {
            char* next = bytes + progress.moved;
            const ssize_t moved = progress.is_reading() ? recv(progress.socket, next, wanted, MSG_DONTWAIT)
                                                        : send(progress.socket, next, wanted, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (moved < 0 && (errno == EAGAIN || errno == EINTR)) return;
            if (moved <= 0) {
                progress.is_stuck = true;
                return;
            }
            progress.moved += (size_t)moved;
        }
        if (progress.moved == count) finish_phase(communicator, progress);
    }
}

// What a rank sends to itself: the first send to the first receive, and so on. False if some have no partner.
bool copy_to_oneself(Communicator& communicator, const std::vector<Operation>& operations) {
    std::vector<const Operation*> of_direction[2];
    for (const Operation& operation : operations) {
        if (operation.peer == communicator.rank) of_direction[(size_t)operation.direction].push_back(&operation);
    }
    const auto& receives = of_direction[(size_t)Direction::RECEIVE];
    const auto& sends = of_direction[(size_t)Direction::SEND];
    for (size_t index = 0; index < std::min(receives.size(), sends.size()); index++) {
        if (receives[index]->count != sends[index]->count) {
            communicator.fail(INVALID_USAGE, "a send to oneself and its receive disagree on the number of bytes");
        } else {
            memcpy(receives[index]->bytes, sends[index]->bytes, sends[index]->count);
        }
    }
    return receives.size() == sends.size();
}

// By its turn at the socket: an operation that another one of the same peer and direction comes before waits for it.
std::vector<Progress*> active(std::vector<Progress>& all) {
    std::vector<Progress*> found;
    for (Progress& progress : all) {
        if (progress.phase == Phase::DONE) continue;
        const auto is_before = [&progress](const Progress* other) { return other->socket == progress.socket; };
        if (std::none_of(found.begin(), found.end(), is_before)) found.push_back(&progress);
    }
    return found;
}

}  // namespace

void transfer(Communicator& communicator, const std::vector<Operation>& operations) {
    std::vector<Progress> all;
    for (const Operation& operation : operations) {
        if (operation.count > 0) {
            const char* what = operation.direction == Direction::SEND ? "a send" : "a receive";
            emulated::check_memory(communicator.device, operation.bytes, operation.count, what);
        }
        // From now on the peer may write there.
        if (operation.direction == Direction::RECEIVE) memset(operation.bytes, 0xff, operation.count);
        if (operation.peer == communicator.rank) continue;
        Progress progress = {&operation, communicator.peers[(size_t)operation.peer].socket[(size_t)operation.direction]};
        progress.length = operation.count;
        all.push_back(progress);
        emulated::count(operation.direction == Direction::SEND ? "bytes sent by NCCL" : "bytes received by NCCL", operation.count);
    }
    const bool is_whole = copy_to_oneself(communicator, operations);
    while (!communicator.is_aborted) {
        const std::vector<Progress*> now = active(all);
        if (now.empty() && is_whole) return;
        std::vector<Interest> interests;
        for (Progress* progress : now) {
            if (!progress->is_stuck) advance(communicator, *progress);
            if (progress->is_stuck || progress->phase == Phase::DONE) continue;
            interests.push_back({progress->socket, (short)(progress->is_reading() ? POLLIN : POLLOUT)});
        }
        const bool has_ended_one = std::any_of(now.begin(), now.end(), [](Progress* one) { return one->phase == Phase::DONE; });
        if (!has_ended_one) wait_for_any(interests);
    }
}

}  // namespace nccl
