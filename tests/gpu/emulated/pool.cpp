// Threads that carry out kernels and products, settings, chance, and what is said on stderr.

#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "driver.hpp"

namespace emulated {

namespace {

// One call of `parallel`.
struct Job {
    const std::function<void(size_t)>* task;
    size_t count;
    size_t next = 0;
    size_t ended = 0;
};

struct Pool {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Job*> jobs;

    Pool() {
        const uint64_t all = std::max(1u, std::thread::hardware_concurrency());
        const uint64_t threads = setting("ASYNCDIFF_EMULATED_THREADS", all);
        for (uint64_t thread = 0; thread < threads; thread++) std::thread([this] { run(); }).detach();
    }

    [[noreturn]] void run() {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            changed.wait(lock, [this] { return !jobs.empty(); });
            Job* job = jobs.front();
            const size_t index = job->next++;
            // Taken by its last piece; whoever asked for it waits until all have ended.
            if (job->next == job->count) jobs.pop_front();
            lock.unlock();
            (*job->task)(index);
            lock.lock();
            if (++job->ended == job->count) changed.notify_all();
        }
    }
};

struct Report {
    std::mutex mutex;
    std::map<std::string, uint64_t> counts;
};

// Never destroyed: streams go on while a process ends.
Report& report() {
    static Report* of_process = new Report;
    return *of_process;
}

void say(const char* format, va_list arguments) {
    char text[1024];
    vsnprintf(text, sizeof(text), format, arguments);
    fprintf(stderr, "emulated GPU: %s\n", text);
}

__attribute__((destructor)) void say_report() {
    const char* path = getenv("ASYNCDIFF_EMULATED_REPORT");
    if (!path || !*path || report().counts.empty()) return;
    std::lock_guard<std::mutex> lock(report().mutex);
    std::string text = std::to_string(getpid()) + ":";
    for (const auto& [what, count] : report().counts) text += " " + std::to_string(count) + " " + what + ",";
    text.back() = '\n';
    // One write: processes may end at the same time.
    FILE* file = fopen(path, "a");
    if (!file) return;
    fwrite(text.data(), 1, text.size(), file);
    fclose(file);
}

}  // namespace

void refuse(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    fprintf(stderr, "emulated GPU: the seed was %llu\n", (unsigned long long)setting("ASYNCDIFF_EMULATED_SEED", 1));
    abort();
}

int complain(Code code, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    return code;
}

uint64_t setting(const char* name, uint64_t otherwise) {
    const char* text = getenv(name);
    if (!text || !*text) return otherwise;
    char* end;
    const uint64_t value = strtoull(text, &end, 10);
    if (*end) refuse("%s=%s is no number", name, text);
    return value;
}

std::mt19937_64 chance(uint64_t salt) {
    std::seed_seq seeds{setting("ASYNCDIFF_EMULATED_SEED", 1), salt};
    return std::mt19937_64(seeds);
}

void count(const char* what, uint64_t by) {
    std::lock_guard<std::mutex> lock(report().mutex);
    report().counts[what] += by;
}

void parallel(size_t count, const std::function<void(size_t)>& task) {
    static Pool* pool = new Pool;
    if (count == 0) return;
    Job job = {&task, count};
    std::unique_lock<std::mutex> lock(pool->mutex);
    pool->jobs.push_back(&job);
    pool->changed.notify_all();
    pool->changed.wait(lock, [&job] { return job.ended == job.count; });
}

}  // namespace emulated
