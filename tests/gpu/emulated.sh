#!/usr/bin/env bash
# All that the host does for GPUs, on emulated ones: what computes on them, and how hidden states get from one to the other. tests/gpu/emulated/emulated.hpp
# says what that proves; tests/gpu/run.sh is for GPUs that are there.
#
#   tests/gpu/emulated.sh     needs cargo and a C++ compiler
#
# With ASYNCDIFF_EMULATED_SEED=N streams are late at other moments.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec </dev/null

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
libraries=$target/emulated-gpus
CAPTION="a red circle on a white background"
FEATURES=asyncdiff-worker/cuda,asyncdiff-coordinator/cuda
# Small ones: sequential, in two components, and in three with a stride of two. A golden run takes some ten seconds.
EXACT=(sdxl/seq sdxl/n2_s1_w1_ts0 sd21/n3_s2_w1_ts0_intended)
ROUNDED=(sdxl/n2_s2_w3_ts1_intended)

folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT

stage() {
    local name=$1 began=$SECONDS
    shift
    echo "==> emulated GPUs, $name"
    "$@"
    echo "==> $name took $((SECONDS - began)) s"
}

# on COUNT COMMAND...: with so many GPUs, and no others than emulated ones.
on() {
    local count=$1
    shift
    LD_LIBRARY_PATH=$libraries ASYNCDIFF_EMULATED_GPUS=$count "$@"
}

build() {
    tests/gpu/emulated/build.sh "$libraries"
    cargo build --locked --bin coordinator --bin worker --bin check-picture --features "$FEATURES"
}

devices() {
    on 2 "$target/debug/worker" devices | tee "$folder/devices"
    [[ $(grep -c '^cuda:[01] .*Emulated GPU [01] ' "$folder/devices") == 2 ]]
    # The second one alone is the first one of this process.
    CUDA_VISIBLE_DEVICES=1 on 2 "$target/debug/worker" devices >"$folder/devices"
    grep -q '^cuda:0 .*Emulated GPU 1 ' "$folder/devices"
}

parity() {
    ASYNCDIFF_GPU=1 on 2 cargo test --locked --package asyncdiff-model --features cuda --lib -- cuda::executor
}

# golden FOLDER COUNT DTYPE RUN...: leaves lines and the emulation's report in the folder.
golden() {
    local out=$1 count=$2 dtype=$3 runs=()
    shift 3
    mkdir -p "$out"
    for run in "$@"; do runs+=(--only "$run"); done
    ASYNCDIFF_EMULATED_REPORT=$out/report on "$count" "$target/debug/coordinator" \
        verify tests/golden "${runs[@]}" --way processes --device cuda --dtype "$dtype" --json | tee "$out/lines"
    cat "$out/report"
}

# The same from GPU to GPU and, since NCCL refuses two ranks on one, through the host's memory: the same bits.
golden_both_ways() {
    golden "$folder/nccl-$1" 2 "$@"
    golden "$folder/host-$1" 1 "$@"
    grep -q 'sent by NCCL' "$folder/nccl-$1/report"
    ! grep -q 'sent by NCCL' "$folder/host-$1/report"
    diff "$folder/nccl-$1/lines" "$folder/host-$1/lines"
}

picture() {
    on 2 "$target/debug/coordinator" run "$CAPTION" --device cuda --workers 2 --components 2 --steps 20 --out "$folder/picture.png"
    "$target/debug/check-picture" "$folder/picture.png" "$CAPTION"
}

stage build build
stage devices devices
stage parity parity
stage golden-f32 golden_both_ways f32 "${EXACT[@]}"
stage golden-bf16 golden_both_ways bf16 "${ROUNDED[@]}"
stage picture picture
echo "==> all that the host does for GPUs passed on emulated ones in $SECONDS s"
