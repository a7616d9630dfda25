// Behind the emulator's header and the kernels' sources: descriptions of the kernels for the emulated driver.

#include "module.hpp"

namespace emulated {

template <auto kernel>
struct Described;

template <typename... Parameters, void (*kernel)(Parameters...)>
struct Described<kernel> {
    // One more, since no array is empty.
    static constexpr uint32_t sizes[] = {sizeof(Parameters)..., 0};
    static constexpr bool is_pointer[] = {std::is_pointer<Parameters>::value..., false};

    static const char* run(const void* launch, void** arguments, uint64_t first, uint64_t end) {
        return emulator::run_part(kernel, static_cast<const emulator::Launch*>(launch), arguments, {first, end},
                                  std::index_sequence_for<Parameters...>());
    }

    static constexpr Kernel describe(const char* name, uint32_t threads) {
        return {name, threads, sizeof...(Parameters), sizes, is_pointer, run};
    }
};

}  // namespace emulated

static_assert(sizeof(emulated::Launch) == sizeof(emulator::Launch) && sizeof(emulated::Range) == sizeof(emulator::Range),
              "module.hpp is not as cuda.hpp");

#define DESCRIBE(kernel, threads)                                                                         \
    extern "C" __attribute__((visibility("default"))) const emulated::Kernel emulated_kernel_##kernel = \
        emulated::Described<kernel>::describe(#kernel, threads);
