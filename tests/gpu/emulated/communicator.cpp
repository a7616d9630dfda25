// How the ranks of a communicator find each other: each listens under a name that the unique id and its rank make, and the higher rank connects
// to the lower one, once for each direction.

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <set>

#include "nccl.hpp"

namespace nccl {

namespace {

// How long a wait for a socket lasts before it is looked whether it was aborted.
constexpr int GLANCE_MS = 5;

struct Hello {
    uint32_t rank, ranks, device;
    // The direction as the one who connects sees it.
    uint32_t direction;
};

sockaddr_un address_of(const std::string& id, int rank, socklen_t* length) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    // An abstract name, which goes with its process.
    const std::string name = id + "-" + std::to_string(rank);
    memcpy(address.sun_path + 1, name.data(), name.size());
    *length = (socklen_t)(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    return address;
}

// All of it, or false when aborted or when the other end is gone.
bool exchange_all(const Communicator& communicator, int socket, void* bytes, size_t count, bool is_reading) {
    char* next = static_cast<char*>(bytes);
    while (count > 0) {
        if (communicator.is_aborted) return false;
        wait_for_any({{socket, (short)(is_reading ? POLLIN : POLLOUT)}});
        const ssize_t moved = is_reading ? recv(socket, next, count, MSG_DONTWAIT) : send(socket, next, count, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (moved == 0 || (moved < 0 && errno != EAGAIN)) return false;
        if (moved > 0) next += moved, count -= (size_t)moved;
    }
    return true;
}

Hello hello_of(const Communicator& communicator, Direction direction) {
    const auto device = (uint32_t)emulated::physical_device(communicator.device);
    return {(uint32_t)communicator.rank, (uint32_t)communicator.ranks, device, (uint32_t)direction};
}

// Compares what a peer says with what must be.
int check(Communicator& communicator, const Hello& hello) {
    if ((int)hello.ranks != communicator.ranks || (int)hello.rank >= communicator.ranks || (int)hello.rank == communicator.rank) {
        return communicator.fail(INVALID_USAGE, "ranks that do not agree on how many they are");
    }
    const int device = emulated::physical_device(communicator.device);
    if ((int)hello.device == device && emulated::setting("NCCL_MULTI_RANK_GPU_ENABLE", 0) != 1) {
        return communicator.fail(INVALID_USAGE, "Duplicate GPU detected : rank " + std::to_string(communicator.rank) + " and rank " +
                                                    std::to_string(hello.rank) + " both on CUDA device " + std::to_string(device));
    }
    return SUCCESS;
}

// To a lower rank, which may not listen yet.
int connect_to(Communicator& communicator, int peer, Direction direction) {
    socklen_t length;
    const sockaddr_un address = address_of(communicator.id, peer, &length);
    const int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (made < 0) return communicator.fail(SYSTEM_ERROR, "no socket");
    communicator.peers[(size_t)peer].socket[(size_t)direction] = made;
    while (::connect(made, (const sockaddr*)&address, length) != 0) {
        if (communicator.is_aborted) return INVALID_USAGE;
        usleep(GLANCE_MS * 1000);
    }
    Hello own = hello_of(communicator, direction), other;
    if (!exchange_all(communicator, made, &own, sizeof(own), false) || !exchange_all(communicator, made, &other, sizeof(other), true)) {
        return communicator.fail(SYSTEM_ERROR, "a peer went away while the communicator was made");
    }
    return check(communicator, other);
}

int accept_from_higher(Communicator& communicator, int listener) {
    for (int left = 2 * (communicator.ranks - 1 - communicator.rank); left > 0; left--) {
        int made = -1;
        while (made < 0) {
            if (communicator.is_aborted) return INVALID_USAGE;
            wait_for_any({{listener, POLLIN}});
            made = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
        }
        Hello other, own = hello_of(communicator, Direction::SEND);
        if (!exchange_all(communicator, made, &other, sizeof(other), true) || !exchange_all(communicator, made, &own, sizeof(own), false)) {
            close(made);
            return communicator.fail(SYSTEM_ERROR, "a peer went away while the communicator was made");
        }
        if (int result = check(communicator, other)) {
            close(made);
            return result;
        }
        // What the other one sends by is received from.
        communicator.peers[other.rank].socket[1 - other.direction] = made;
    }
    return SUCCESS;
}

}  // namespace

Communicator::~Communicator() {
    for (const Peer& peer : peers) {
        for (int socket : peer.socket) {
            if (socket >= 0) close(socket);
        }
    }
}

int Communicator::fail(Result result, const std::string& what) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!is_aborted) emulated::complain((emulated::Code)result, "NCCL, rank %d of %d: %s", rank, ranks, what.c_str());
    if (state == SUCCESS || state == IN_PROGRESS) {
        state = result;
        last_error = what;
    }
    changed.notify_all();
    return result;
}

void Communicator::set_state(int result) {
    std::lock_guard<std::mutex> lock(mutex);
    if (state == SUCCESS || state == IN_PROGRESS) state = result;
    changed.notify_all();
}

int Communicator::current_state() {
    std::lock_guard<std::mutex> lock(mutex);
    return state;
}

int connect(Communicator& communicator) {
    socklen_t length;
    const sockaddr_un address = address_of(communicator.id, communicator.rank, &length);
    const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int result = SUCCESS;
    if (listener < 0 || bind(listener, (const sockaddr*)&address, length) != 0 || listen(listener, communicator.ranks * 2) != 0) {
        result = communicator.fail(INVALID_USAGE, "the rank is taken: a unique id serves one communicator, and each of its ranks once");
    }
    for (int peer = 0; peer < communicator.rank && result == SUCCESS; peer++) {
        for (Direction direction : {Direction::SEND, Direction::RECEIVE}) {
            if (result == SUCCESS) result = connect_to(communicator, peer, direction);
        }
    }
    if (result == SUCCESS) result = accept_from_higher(communicator, listener);
    if (listener >= 0) close(listener);
    return result;
}

int set_up(Communicator& communicator, const std::vector<Operation>& operations) {
    std::set<std::pair<int, Direction>> first_ones;
    for (const Operation& operation : operations) {
        const Peer& peer = communicator.peers[(size_t)operation.peer];
        const bool is_known = operation.peer == communicator.rank || peer.is_set_up[(size_t)operation.direction];
        if (!is_known) first_ones.insert({operation.peer, operation.direction});
    }
    // All say first that they are there, so that no order of peers can block them.
    for (const bool is_reading : {false, true}) {
        for (const auto& [number, direction] : first_ones) {
            Peer& peer = communicator.peers[(size_t)number];
            char byte = 'c';
            while (!exchange_all(communicator, peer.socket[(size_t)direction], &byte, 1, is_reading)) {
                // A peer that is gone is one that never comes.
                if (communicator.is_aborted) return INVALID_USAGE;
                usleep(GLANCE_MS * 1000);
            }
            peer.is_set_up[(size_t)direction] = true;
        }
    }
    return SUCCESS;
}

void wait_for_any(const std::vector<Interest>& interests) {
    std::vector<pollfd> waited;
    for (const Interest& interest : interests) waited.push_back({interest.socket, interest.events, 0});
    poll(waited.data(), waited.size(), GLANCE_MS);
}

}  // namespace nccl
