// cuBLASLt: products with their epilogues. An algorithm is for the shapes, types and alignments that it was asked for, and for no others.

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>

#include "emulated.hpp"
#include "product.hpp"

namespace {

using product::Type;

enum Status : int { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };

// Numbers of `cublasLtEpilogue_t`.
constexpr uint32_t RELU = 2, BIAS = 4, GELU = 32;

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t step;
    int32_t batches = 1;
    int64_t batch_step = 0;
};

struct Description {
    int compute, scale;
    int32_t is_transposed[3] = {0, 0, 0};
    uint32_t epilogue = 1;
    const void* bias = nullptr;
    // -1: that of the target.
    int32_t bias_type = -1;
};

struct Preference {
    uint64_t workspace_bytes = 0;
    uint32_t alignments[4] = {256, 256, 256, 256};
};

struct Algorithm {
    uint64_t words[8];
};

struct Found {
    Algorithm algorithm;
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
};

// What an algorithm is chosen by, but for alignments.
uint64_t signature(const Description& of, const Layout* a, const Layout* b, const Layout* c, const Layout* d) {
    std::string text;
    const auto add = [&text](int64_t number) { text += std::to_string(number) + " "; };
    for (const Layout* layout : {a, b, c, d}) {
        add(layout->type), add((int64_t)layout->rows), add((int64_t)layout->columns), add(layout->step), add(layout->batches);
        add(layout->batch_step);
    }
    add(of.compute), add(of.scale), add(of.epilogue), add(of.is_transposed[0]), add(of.is_transposed[1]), add(of.bias_type);
    return std::hash<std::string>()(text);
}

bool is_element(int type) { return type == product::F32 || type == product::F16 || type == product::BF16; }

// Whether there is such a product at all: then the emulated library has an algorithm for it.
bool is_meant(const Description& of, const Layout* a, const Layout* b, const Layout* c, const Layout* d) {
    constexpr int COMPUTE_F32 = 68, COMPUTE_TF32 = 77;
    if ((of.compute != COMPUTE_F32 && of.compute != COMPUTE_TF32) || of.scale != product::F32 || of.is_transposed[2]) return false;
    const bool ta = of.is_transposed[0], tb = of.is_transposed[1];
    const uint64_t m = ta ? a->columns : a->rows, k = ta ? a->rows : a->columns;
    const uint64_t n = tb ? b->rows : b->columns, of_b = tb ? b->columns : b->rows;
    if (k != of_b || d->rows != m || d->columns != n || c->rows != m || c->columns != n) return false;
    for (const Layout* layout : {a, b, c, d}) {
        if (!is_element(layout->type) || layout->step < (int64_t)layout->rows || layout->batches != d->batches) return false;
    }
    if (a->type != b->type || c->type != d->type || (d->type != a->type && d->type != product::F32)) return false;
    return (of.epilogue & ~(1u | RELU | BIAS | GELU)) == 0;
}

float activated(uint32_t epilogue, float value) {
    if (epilogue & RELU) return std::max(value, 0.0f);
    // By the hyperbolic tangent, as the library does.
    if (epilogue & GELU) return 0.5f * value * (1.0f + tanhf(0.79788456f * (value + 0.044715f * value * value * value)));
    return value;
}

// One product of a batch, all that its work needs.
struct Product {
    Description description;
    Layout a, b, c, d;
    const char *of_a, *of_b, *of_c;
    char* of_d;
    float alpha, beta;
    char* workspace;
    size_t workspace_bytes;

    static size_t extent(const Layout& layout) {
        const uint64_t last = layout.columns ? (uint64_t)layout.step * (layout.columns - 1) + layout.rows : 0;
        return ((uint64_t)layout.batch_step * (uint64_t)(layout.batches - 1) + last) * product::bytes_of(layout.type);
    }

    int bias_type() const { return description.bias_type < 0 ? d.type : description.bias_type; }

    void check(int device) const {
        emulated::check_memory(device, of_a, extent(a), "a product's first operand");
        emulated::check_memory(device, of_b, extent(b), "a product's second operand");
        emulated::check_memory(device, of_d, extent(d), "a product's target");
        if (beta != 0.0f) emulated::check_memory(device, of_c, extent(c), "what is added to a product");
        if (workspace_bytes) emulated::check_memory(device, workspace, workspace_bytes, "a product's workspace");
        if (description.epilogue & BIAS) {
            emulated::check_memory(device, description.bias, d.rows * product::bytes_of(bias_type()), "a product's bias");
        }
    }

    void run() const {
        // Whatever an algorithm would leave there.
        memset(workspace, 0xff, std::min<size_t>(workspace_bytes, 4096));
        const uint64_t down = (d.rows + product::TILE_ROWS - 1) / product::TILE_ROWS;
        const uint64_t across = (d.columns + product::TILE_COLUMNS - 1) / product::TILE_COLUMNS;
        emulated::parallel(down * across * (uint64_t)d.batches, [&](size_t index) {
            const int64_t batch = (int64_t)(index / (down * across));
            const int64_t row = (int64_t)(index % down) * product::TILE_ROWS;
            const int64_t column = (int64_t)(index / down % across) * product::TILE_COLUMNS;
            tile(batch, row, column);
        });
    }

    void tile(int64_t batch, int64_t row, int64_t column) const {
        const bool ta = description.is_transposed[0], tb = description.is_transposed[1];
        const char* first_a = of_a + (size_t)(batch * a.batch_step) * product::bytes_of(a.type);
        const char* first_b = of_b + (size_t)(batch * b.batch_step) * product::bytes_of(b.type);
        const product::Operand left = {first_a, a.type, ta ? a.step : 1, ta ? 1 : a.step};
        const product::Operand right = {first_b, b.type, tb ? 1 : b.step, tb ? b.step : 1};
        const int rows = (int)std::min<int64_t>(product::TILE_ROWS, (int64_t)d.rows - row);
        const int columns = (int)std::min<int64_t>(product::TILE_COLUMNS, (int64_t)d.columns - column);
        const int64_t k = (int64_t)(ta ? a.rows : a.columns);
        const float* sums = product::sums_of(left, right, k, row, rows, column, columns);
        for (int j = 0; j < columns; j++) {
            for (int i = 0; i < rows; i++) {
                float value = alpha * sums[i * product::TILE_COLUMNS + j];
                if (beta != 0.0f) value += beta * product::load(of_c, c.type, batch * c.batch_step + (column + j) * c.step + row + i);
                if (description.epilogue & BIAS) value += product::load(description.bias, bias_type(), row + i);
                const int64_t place = batch * d.batch_step + (column + j) * d.step + row + i;
                product::store(of_d, d.type, place, activated(description.epilogue, value));
            }
        }
    }
};

template <typename T>
int set(T& place, const void* value, size_t bytes) {
    if (bytes != sizeof(T)) return emulated::complain(emulated::INVALID_VALUE, "an attribute of %zu bytes is given %zu", sizeof(T), bytes), INVALID_VALUE;
    memcpy(&place, value, bytes);
    return SUCCESS;
}

}  // namespace

EXPORTED size_t cublasLtGetVersion() { return 130000; }

EXPORTED int cublasLtCreate(void** handle) {
    *handle = malloc(1);
    return SUCCESS;
}

EXPORTED int cublasLtDestroy(void* handle) {
    free(handle);
    return SUCCESS;
}

EXPORTED int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns, int64_t step) {
    *layout = new Layout{type, rows, columns, step};
    return SUCCESS;
}

EXPORTED int cublasLtMatrixLayoutSetAttribute(Layout* layout, int attribute, const void* value, size_t bytes) {
    switch (attribute) {
        case 5:
            return set(layout->batches, value, bytes);
        case 6:
            return set(layout->batch_step, value, bytes);
        default:
            emulated::refuse("attribute %d of a matrix is not emulated", attribute);
    }
}

EXPORTED int cublasLtMatrixLayoutDestroy(Layout* layout) {
    delete layout;
    return SUCCESS;
}

EXPORTED int cublasLtMatmulDescCreate(Description** description, int compute, int scale) {
    *description = new Description{compute, scale};
    return SUCCESS;
}

EXPORTED int cublasLtMatmulDescSetAttribute(Description* description, int attribute, const void* value, size_t bytes) {
    switch (attribute) {
        case 3:
        case 4:
        case 5:
            return set(description->is_transposed[attribute - 3], value, bytes);
        case 7:
            return set(description->epilogue, value, bytes);
        case 8:
            return set(description->bias, value, bytes);
        case 26:
            return set(description->bias_type, value, bytes);
        default:
            emulated::refuse("attribute %d of a product is not emulated", attribute);
    }
}

EXPORTED int cublasLtMatmulDescDestroy(Description* description) {
    delete description;
    return SUCCESS;
}

EXPORTED int cublasLtMatmulPreferenceCreate(Preference** preference) {
    *preference = new Preference;
    return SUCCESS;
}

EXPORTED int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t bytes) {
    uint32_t ignored;
    switch (attribute) {
        case 1:
            return set(preference->workspace_bytes, value, bytes);
        case 3:  // how partial sums are added up: here there are none
            return set(ignored, value, bytes);
        case 5:
        case 6:
        case 7:
        case 8:
            return set(preference->alignments[attribute - 5], value, bytes);
        default:
            emulated::refuse("attribute %d of a preference is not emulated", attribute);
    }
}

EXPORTED int cublasLtMatmulPreferenceDestroy(Preference* preference) {
    delete preference;
    return SUCCESS;
}

EXPORTED int cublasLtMatmulAlgoGetHeuristic(void*, Description* description, Layout* a, Layout* b, Layout* c, Layout* d,
                                            Preference* preference, int wanted, Found* found, int* count) {
    *count = 0;
    if (wanted < 1 || !is_meant(*description, a, b, c, d)) return NOT_SUPPORTED;
    memset(found, 0, sizeof(*found));
    found->algorithm.words[0] = signature(*description, a, b, c, d);
    for (int index = 0; index < 4; index++) found->algorithm.words[1 + index] = preference->alignments[index];
    found->algorithm.words[5] = found->workspace_bytes = preference->workspace_bytes;
    *count = 1;
    return SUCCESS;
}

EXPORTED int cublasLtMatmul(void*, Description* description, const float* alpha, const void* of_a, Layout* a, const void* of_b, Layout* b,
                            const float* beta, const void* of_c, Layout* c, void* of_d, Layout* d, const Algorithm* algorithm,
                            void* workspace, size_t workspace_bytes, void* handle) {
    if (!algorithm) emulated::refuse("a product without an algorithm is not emulated");
    if (algorithm->words[0] != signature(*description, a, b, c, d)) emulated::refuse("a product with an algorithm for another one");
    const void* pointers[4] = {of_a, of_b, of_c, of_d};
    for (int index = 0; index < 4; index++) {
        const bool is_aligned = (uintptr_t)pointers[index] % algorithm->words[1 + index] == 0;
        if (!is_aligned) emulated::refuse("a product's operand %d at %p is aligned to less than was said", index, pointers[index]);
    }
    if (workspace_bytes < algorithm->words[5]) return INVALID_VALUE;
    emulated::Stream* stream = emulated::stream_of(handle);
    const Product made = {*description,   *a,     *b,    *c, *d, (const char*)of_a, (const char*)of_b, (const char*)of_c, (char*)of_d,
                          *alpha, *beta, (char*)workspace, workspace_bytes};
    emulated::enqueue(stream, [made, device = emulated::device_of(stream)] {
        emulated::count("products");
        made.check(device);
        made.run();
    });
    return SUCCESS;
}
