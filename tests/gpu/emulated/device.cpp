// The driver's GPUs and contexts.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "driver.hpp"

namespace emulated {

namespace {

// CUDA 13.0.
constexpr int DRIVER_VERSION = 13000;

// As an H100 has them; a program that asks for something else is told so.
constexpr int MULTIPROCESSORS = 132;
constexpr int SHARED_BYTES_OF_BLOCK = 48 << 10;
constexpr int SHARED_BYTES_AT_MOST = 227 << 10;

std::atomic<bool> is_started = false;
thread_local Context* current = nullptr;

struct Gpus {
    std::mutex mutex;
    std::vector<int> physical;
    std::vector<Context> contexts;

    // As the driver does: numbers up to the first that is none, each once.
    Gpus() {
        const int all = (int)setting("ASYNCDIFF_EMULATED_GPUS", 1);
        const char* chosen = getenv("CUDA_VISIBLE_DEVICES");
        if (!chosen) {
            for (int device = 0; device < all; device++) physical.push_back(device);
        } else {
            read(chosen, all);
        }
        for (size_t device = 0; device < physical.size(); device++) contexts.push_back(Context{(int)device});
    }

    void read(const char* chosen, int all) {
        while (*chosen) {
            char* end;
            const long device = strtol(chosen, &end, 10);
            if (end == chosen || (*end && *end != ',') || device < 0 || device >= all) return;
            for (int known : physical) {
                if (known == device) return physical.clear();
            }
            physical.push_back((int)device);
            chosen = *end ? end + 1 : end;
        }
    }
};

Gpus& gpus() {
    static Gpus* of_process = new Gpus;
    return *of_process;
}

bool exists(int device) { return device >= 0 && (size_t)device < gpus().physical.size(); }

}  // namespace

Context* bound(Code* code) {
    *code = current ? CONTEXT_IS_DESTROYED : INVALID_CONTEXT;
    if (current && current->retained > 0) return current;
    complain(*code, current ? "the thread's context was given back" : "the thread has no context");
    return nullptr;
}

std::pair<int, int> capability() {
    const char* text = getenv("ASYNCDIFF_EMULATED_CAPABILITY");
    int major = 9, minor = 0;
    if (text && sscanf(text, "%d.%d", &major, &minor) != 2) refuse("ASYNCDIFF_EMULATED_CAPABILITY=%s is not like 9.0", text);
    return {major, minor};
}

int current_device() { return current && current->retained > 0 ? current->device : -1; }

int physical_device(int device) { return gpus().physical.at(device); }

}  // namespace emulated

using namespace emulated;

EXPORTED int cuInit(unsigned) {
    if (gpus().physical.empty()) return NO_DEVICE;
    is_started = true;
    return SUCCESS;
}

EXPORTED int cuDriverGetVersion(int* version) {
    *version = DRIVER_VERSION;
    return SUCCESS;
}

EXPORTED int cuDeviceGetCount(int* count) {
    if (!is_started) return NOT_INITIALIZED;
    *count = (int)gpus().physical.size();
    return SUCCESS;
}

EXPORTED int cuDeviceGet(int* device, int ordinal) {
    if (!is_started) return NOT_INITIALIZED;
    *device = ordinal;
    return exists(ordinal) ? SUCCESS : INVALID_DEVICE;
}

EXPORTED int cuDeviceGetName(char* name, int bytes, int device) {
    if (!exists(device)) return INVALID_DEVICE;
    snprintf(name, (size_t)bytes, "Emulated GPU %d", physical_device(device));
    return SUCCESS;
}

EXPORTED int cuDeviceGetUuid_v2(char* uuid, int device) {
    if (!exists(device)) return INVALID_DEVICE;
    memset(uuid, 0xe0, 15);
    uuid[15] = (char)physical_device(device);
    return SUCCESS;
}

EXPORTED int cuDeviceGetPCIBusId(char* text, int bytes, int device) {
    if (!exists(device)) return INVALID_DEVICE;
    snprintf(text, (size_t)bytes, "0000:%02x:00.0", physical_device(device) + 1);
    return SUCCESS;
}

EXPORTED int cuDeviceTotalMem_v2(size_t* bytes, int device) {
    *bytes = setting("ASYNCDIFF_EMULATED_MEMORY_BYTES", 8ull << 30);
    return exists(device) ? SUCCESS : INVALID_DEVICE;
}

// Numbers of `CUdevice_attribute`.
EXPORTED int cuDeviceGetAttribute(int* value, int attribute, int device) {
    if (!exists(device)) return INVALID_DEVICE;
    switch (attribute) {
        case 1:  // threads of a block
            *value = 1024;
            return SUCCESS;
        case 8:  // shared memory of a block, without asking for more
            *value = SHARED_BYTES_OF_BLOCK;
            return SUCCESS;
        case 10:  // threads of a warp
            *value = 32;
            return SUCCESS;
        case 16:
            *value = MULTIPROCESSORS;
            return SUCCESS;
        case 33:  // PCI bus
            *value = physical_device(device) + 1;
            return SUCCESS;
        case 34:  // PCI device
        case 50:  // PCI domain
        case 18:  // it is no part of the host's chip
            *value = 0;
            return SUCCESS;
        case 41:  // one address space with the host
        case 115:  // memory pools
            *value = 1;
            return SUCCESS;
        case 75:
            *value = capability().first;
            return SUCCESS;
        case 76:
            *value = capability().second;
            return SUCCESS;
        case 97:  // shared memory of a block, at most
            *value = SHARED_BYTES_AT_MOST;
            return SUCCESS;
        default:
            return complain(INVALID_VALUE, "attribute %d of a device is not emulated", attribute);
    }
}

EXPORTED int cuDeviceCanAccessPeer(int* can, int device, int peer) {
    *can = exists(device) && exists(peer) && device != peer;
    return exists(device) && exists(peer) ? SUCCESS : INVALID_DEVICE;
}

EXPORTED int cuDevicePrimaryCtxRetain(Context** context, int device) {
    if (!exists(device)) return INVALID_DEVICE;
    std::lock_guard<std::mutex> lock(gpus().mutex);
    Context& of_device = gpus().contexts[(size_t)device];
    if (of_device.retained++ == 0) of_device.default_stream = start_stream(&of_device);
    *context = &of_device;
    return SUCCESS;
}

EXPORTED int cuDevicePrimaryCtxRelease_v2(int device) {
    if (!exists(device)) return INVALID_DEVICE;
    std::lock_guard<std::mutex> lock(gpus().mutex);
    Context& of_device = gpus().contexts[(size_t)device];
    if (of_device.retained == 0) return INVALID_CONTEXT;
    if (--of_device.retained > 0) return SUCCESS;
    wait_for_streams(&of_device);
    end_streams(&of_device);
    forget_memory(device);
    return SUCCESS;
}

EXPORTED int cuCtxSetCurrent(Context* context) {
    current = context;
    return SUCCESS;
}

EXPORTED int cuCtxGetCurrent(Context** context) {
    *context = current;
    return SUCCESS;
}

EXPORTED int cuCtxGetDevice(int* device) {
    BOUND(context);
    *device = context->device;
    return SUCCESS;
}

EXPORTED int cuCtxSynchronize() {
    BOUND(context);
    if (int code = forbidden_by_capture("cuCtxSynchronize")) return code;
    wait_for_streams(context);
    return SUCCESS;
}

// Peers' memory is copied between GPUs only, never accessed by kernels.
EXPORTED int cuCtxEnablePeerAccess(Context*, unsigned) { refuse("kernels that access another GPU's memory are not emulated"); }

// How a thread waits is nothing to emulate.
EXPORTED int cuCtxSetFlags(unsigned) { return SUCCESS; }

EXPORTED int cuGetErrorName(int code, const char** name) {
    static const std::pair<int, const char*> names[] = {
        {SUCCESS, "CUDA_SUCCESS"},
        {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
        {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
        {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
        {NOT_READY, "CUDA_ERROR_NOT_READY"},
    };
    *name = "an emulated GPU's error";
    for (const auto& [known, of_code] : names) {
        if (known == code) *name = of_code;
    }
    return SUCCESS;
}

EXPORTED int cuGetErrorString(int code, const char** text) { return cuGetErrorName(code, text); }
