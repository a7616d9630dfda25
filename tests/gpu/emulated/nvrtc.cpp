// NVRTC: compiles a GPU's sources as C++, by the machine's compiler and with the header of the tests' emulator. Its text names the library that
// came of it. Libraries are kept beside this one, by what they were made of, since each process compiles anew.

#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "emulated.hpp"

// Set by build.sh.
#ifndef KERNELS_HEADER
#error "the path of the emulator's header"
#endif
#ifndef SOURCES
#error "the folder of these sources"
#endif

namespace {

enum Result : int { SUCCESS = 0, INVALID_OPTION = 5, COMPILATION = 6, INTERNAL_ERROR = 11 };

// As `OPTIONS` of the tests' emulator, which says why, but faster.
const char* const COMPILER =
    "c++ -O3 -march=native -std=c++17 -shared -fPIC -fvisibility=hidden -fno-strict-aliasing -ftls-model=initial-exec -U_FORTIFY_SOURCE "
    "-Wl,-Bsymbolic -Wno-unknown-pragmas";

struct Program {
    std::string source;
    std::string text;
    std::string log;
};

// What an option is to the C++ compiler; false if it is not known.
bool translate(const std::string& option, std::string& definitions, std::pair<int, int>& architecture) {
    if (option.rfind("-D", 0) == 0) {
        definitions += " '" + option + "'";
        return true;
    }
    int number;
    const char* text = option.c_str();
    if (sscanf(text, "--gpu-architecture=compute_%d", &number) == 1 || sscanf(text, "-arch=compute_%d", &number) == 1) {
        architecture = {number / 10, number % 10};
        return true;
    }
    // They change a GPU's arithmetic.
    return option.rfind("--fmad=", 0) == 0 || option.rfind("--std=", 0) == 0 || option == "--use_fast_math";
}

std::string read(const std::string& path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

bool write(const std::string& path, const std::string& text) {
    std::ofstream file(path);
    file << text;
    return file.good();
}

// Runs a command; what it said on stderr is added to the log.
bool run(const std::string& command, const std::string& place, std::string& log) {
    const int status = system((command + " 2>" + place + ".log").c_str());
    log += read(place + ".log");
    unlink((place + ".log").c_str());
    return status == 0;
}

// A line for each kernel of the sources, which have gone through the preprocessor: it has left `__global__` as it was.
std::string descriptions(const std::string& preprocessed) {
    static const std::regex kernel(
        R"(extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\(((?:[^()]|\([^()]*\))*)\)\s*)?([A-Za-z_0-9]+)\s*\()");
    std::string lines;
    for (std::sregex_iterator found(preprocessed.begin(), preprocessed.end(), kernel), end; found != end; ++found) {
        const std::string bounds = (*found)[1].str(), threads = bounds.substr(0, bounds.find(','));
        lines += "DESCRIBE(" + (*found)[2].str() + ", (" + (threads.empty() ? "0" : threads) + "))\n";
    }
    return lines;
}

// Where libraries are kept: beside this one.
std::string folder() {
    Dl_info self;
    if (!dladdr((void*)&folder, &self)) emulated::refuse("the emulated NVRTC does not know where it lies");
    const std::string path = self.dli_fname;
    const std::string kept = path.substr(0, path.rfind('/')) + "/kernels";
    mkdir(kept.c_str(), 0777);
    return kept;
}

Result compile(Program* program, const std::string& definitions, std::pair<int, int> architecture) {
    const std::string own = SOURCES;
    const std::string headers = read(KERNELS_HEADER) + read(TILES_HEADER) + read(own + "/warps.hpp") + read(own + "/kernels.hpp") + read(own + "/module.hpp");
    const std::string parts = headers + program->source + definitions;
    char name[32];
    snprintf(name, sizeof(name), "%016zx", std::hash<std::string>()(parts + COMPILER));
    const std::string kept = folder() + "/" + name + ".so";
    program->text = "// emulated: " + std::to_string(architecture.first) + "." + std::to_string(architecture.second) + " " + kept + "\n";
    if (access(kept.c_str(), R_OK) == 0) return SUCCESS;
    // Another process or thread may do the same.
    static std::atomic<int> compilations = 0;
    const std::string place = folder() + "/" + name + "-" + std::to_string(getpid()) + "-" + std::to_string(compilations++);
    const std::string source = place + ".cu", all = place + ".cpp", made = place + ".so";
    if (!write(source, program->source)) return INTERNAL_ERROR;
    bool is_done = run("c++ -E -P -DEMULATED -x c++" + definitions + " -o " + all + " " + source, place, program->log);
    const std::string lines = descriptions(read(all));
    const std::string before = "#include \"" KERNELS_HEADER "\"\n#include \"" TILES_HEADER "\"\n#include \"" + own + "/warps.hpp\"\n#line 1 \"kernels.cu\"\n";
    const std::string text = before + program->source + "\n#include \"" + own + "/kernels.hpp\"\n" + lines;
    is_done = is_done && write(all, text) && run(std::string(COMPILER) + definitions + " -o " + made + " " + all, place, program->log);
    unlink(source.c_str());
    if (!is_done) return COMPILATION;
    unlink(all.c_str());
    return rename(made.c_str(), kept.c_str()) == 0 ? SUCCESS : INTERNAL_ERROR;
}

}  // namespace

EXPORTED int nvrtcVersion(int* major, int* minor) {
    *major = 13;
    *minor = 0;
    return SUCCESS;
}

EXPORTED int nvrtcCreateProgram(Program** program, const char* source, const char*, int headers, const char* const*, const char* const*) {
    if (headers) emulated::refuse("headers of a program are not emulated");
    // What unrolls loops there does nothing here, unless it is called by another name.
    *program = new Program{std::regex_replace(source, std::regex("#pragma unroll\n"), "#pragma GCC unroll 16\n"), "", ""};
    return SUCCESS;
}

EXPORTED int nvrtcDestroyProgram(Program** program) {
    delete *program;
    *program = nullptr;
    return SUCCESS;
}

EXPORTED int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    std::string definitions;
    // What NVRTC compiles for unless it is told.
    std::pair<int, int> architecture = {7, 5};
    for (int index = 0; index < count; index++) {
        if (translate(options[index], definitions, architecture)) continue;
        program->log += std::string("emulated NVRTC: unknown option ") + options[index] + "\n";
        return INVALID_OPTION;
    }
    return compile(program, definitions, architecture);
}

EXPORTED int nvrtcGetPTXSize(Program* program, size_t* bytes) {
    *bytes = program->text.size() + 1;
    return SUCCESS;
}

EXPORTED int nvrtcGetPTX(Program* program, char* text) {
    memcpy(text, program->text.c_str(), program->text.size() + 1);
    return SUCCESS;
}

EXPORTED int nvrtcGetProgramLogSize(Program* program, size_t* bytes) {
    *bytes = program->log.size() + 1;
    return SUCCESS;
}

EXPORTED int nvrtcGetProgramLog(Program* program, char* text) {
    memcpy(text, program->log.c_str(), program->log.size() + 1);
    return SUCCESS;
}

EXPORTED const char* nvrtcGetErrorString(int result) { return result == COMPILATION ? "NVRTC_ERROR_COMPILATION" : "an emulated NVRTC's error"; }
