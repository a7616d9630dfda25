#!/usr/bin/env bash
# Makes the libraries of emulated GPUs; emulated.hpp says what they are.
#
#   tests/gpu/emulated/build.sh OUT     then LD_LIBRARY_PATH=OUT
#
# Takes a C++ compiler, and half a minute, with a check of what was made; nothing if it is newer than its sources.
set -euo pipefail
sources=$(cd "$(dirname "$0")" && pwd)
header=$(cd "$sources/../../../common/model/src/kernels/cuda/emulator" && pwd)/cuda.hpp
tiles=${header%/*}/tiles.hpp
out=$(realpath -m "${1:?the folder to make}")
mkdir -p "$out"

if [[ -e $out/made && -z $(find "$sources" "$header" "$tiles" -newer "$out/made" -type f) ]]; then
    exit
fi
compile() {
    local name=$1
    shift
    # By their own folder, so that all of them use one driver, however they were found.
    c++ -O2 -march=native -std=c++17 -Wall -Wextra -shared -fPIC -fvisibility=hidden -pthread -Wl,-soname,"$name" -Wl,-rpath,"$out" \
        -o "$out/$name.new" "$@"
    mv -- "$out/$name.new" "$out/$name"
}
cd "$sources"
compile libcuda.so pool.cpp device.cpp memory.cpp copies.cpp stream.cpp graph.cpp kernel.cpp -ldl
compile libnvrtc.so "-DKERNELS_HEADER=\"$header\"" "-DTILES_HEADER=\"$tiles\"" "-DSOURCES=\"$sources\"" nvrtc.cpp "$out/libcuda.so" -ldl
compile libcublasLt.so cublaslt.cpp "$out/libcuda.so"
# As it is installed: with its version.
compile libnccl.so.2 nccl.cpp communicator.cpp transfers.cpp "$out/libcuda.so"
c++ -O2 -std=c++17 -Wall -Wextra -pthread -Wl,-rpath,"$out" -o "$out/check" check.cpp "$out/libcuda.so" "$out/libnccl.so.2"
ASYNCDIFF_EMULATED_GPUS=2 "$out/check"
touch "$out/made"
