#!/usr/bin/env bash
# Checks and measures on a machine with one GPU of NVIDIA's what nothing else can, and writes a report (report.md, report.json).
#
#   tests/gpu/run.sh [STATE [STAGE…]]     STATE: a folder for results [default: target/gpu/run-COMMIT]; all stages, or those that are named
#
# In stages of less than nine minutes each. What is done is noted in the folder and not done again, so that a run that was cut off goes on where it
# was; remove the folder, or a stage's .verdict, to do it anew. What cannot be done is skipped aloud, and the exit code is 1 if a stage failed.
#
#   ASYNCDIFF_BINARIES=FOLDER     programs that tests/gpu/pack.sh made elsewhere, for a machine without cargo or network; without it cargo builds
#   ASYNCDIFF_PYTHON=PYTHON       a Python with PyTorch [default: python3]; CUDA's libraries are found in its wheels too
#   ASYNCDIFF_GPU_SECONDS=570     ends in order before that, with exit code 3, where somebody else limits the time: run it again to go on
#   ASYNCDIFF_GPU_REHEARSAL=cpu   tries all stages with small models on the CPU; =cuda with small models on a GPU, such as an emulated one
#
# Takes a driver; NVRTC and cuBLASLt, of the CUDA toolkit or PyTorch's wheels; and for some stages cuDNN, NCCL and PyTorch. No network.
cd "$(dirname "$0")/../.." || exit
source tests/gpu/stages.sh
begin tests/gpu/run.sh "$@"

STAGES=(build devices parity parity-no-cudnn
    golden-f32-1rank golden-f32-2ranks golden-f32-2ranks-nccl golden-bf16-1rank golden-bf16-2ranks golden-f16-1rank golden-f16-2ranks
    golden-bf16-1rank-no-cudnn picture
    step-sd21 step-sdxl step-sd21-no-graphs step-sdxl-no-graphs step-sd21-no-cudnn step-sdxl-no-cudnn step-sd21-f16 step-sdxl-f16
    torch-check torch-sd21 torch-sdxl torch-sd21-compile torch-sdxl-compile torch-sd21-max-autotune torch-sdxl-max-autotune
    gpus-sd21-quic gpus-sdxl-quic gpus-sd21-nccl)

# How long steps are timed, of ours and of PyTorch's; a mode of PyTorch's has two memory formats.
STEP_SECONDS=20
[[ -z $rehearsal ]] || STEP_SECONDS=1

# From this version on two ranks may share a GPU, if they are told so.
NCCL_SHARED=23000

do_parity() {
    needs_gpus 1 || return
    local tests=$programs/model-tests
    [[ -x $tests ]] || tests=$state/model-tests
    [[ -x $tests ]] || skip "the tests of the crate asyncdiff-model were not built" || return
    [[ $rehearsal == cpu ]] || export ASYNCDIFF_GPU=1
    ours "$tests" cuda::executor --nocapture
}

do_parity_no_cudnn() { ASYNCDIFF_CUDNN=off do_parity; }

# golden_ranks NAME TYPE RANKS
golden_ranks() {
    needs_gpus 1 || return
    ASYNCDIFF_NCCL=${carrier:-off} golden "$1" "$2" --workers "$3"
}

do_golden_f32_1rank() { golden_ranks golden-f32-1rank f32 1; }
do_golden_f32_2ranks() { golden_ranks golden-f32-2ranks f32 2; }
do_golden_bf16_1rank() { golden_ranks golden-bf16-1rank bf16 1; }
do_golden_bf16_1rank_no_cudnn() { ASYNCDIFF_CUDNN=off golden_ranks golden-bf16-1rank-no-cudnn bf16 1; }
do_golden_bf16_2ranks() { golden_ranks golden-bf16-2ranks bf16 2; }
do_golden_f16_1rank() { golden_ranks golden-f16-1rank f16 1; }
do_golden_f16_2ranks() { golden_ranks golden-f16-2ranks f16 2; }

do_golden_f32_2ranks_nccl() {
    needs_gpus 1 || return
    needs_nccl $NCCL_SHARED "two ranks on one GPU" || return
    export NCCL_MULTI_RANK_GPU_ENABLE=1
    hear_nccl
    carrier=on golden_ranks golden-f32-2ranks-nccl f32 2 && used_nccl golden-f32-2ranks-nccl
}

# Two ranks on the one GPU, each with a part of the layers, with a trace.
do_picture() {
    needs_gpus 1 || return
    figures picture ours "$programs/coordinator" run "$CAPTION" --device $GPU --workers 2 --components 2 --split-guidance=false \
        --out "$state/picture.png" --trace "$state/picture-trace.json" --json || return
    looks_right "$state/picture.png"
}

# step MODEL TYPE NAME
step() {
    needs_gpus 1 && takes_type "$2" || return
    figures "$3" ours "$programs/coordinator" bench step --device $GPU --models "$(model "$1")" --dtype "$2" --seconds "$STEP_SECONDS" --json
}

do_step_sd21() { step sd21 bf16 step-sd21; }
do_step_sdxl() { step sdxl bf16 step-sdxl; }
do_step_sd21_no_graphs() { ASYNCDIFF_CUDA_GRAPHS=off step sd21 bf16 step-sd21-no-graphs; }
do_step_sdxl_no_graphs() { ASYNCDIFF_CUDA_GRAPHS=off step sdxl bf16 step-sdxl-no-graphs; }
do_step_sd21_no_cudnn() { ASYNCDIFF_CUDNN=off step sd21 bf16 step-sd21-no-cudnn; }
do_step_sdxl_no_cudnn() { ASYNCDIFF_CUDNN=off step sdxl bf16 step-sdxl-no-cudnn; }
do_step_sd21_f16() { step sd21 f16 step-sd21-f16; }
do_step_sdxl_f16() { step sdxl f16 step-sdxl-f16; }

do_torch_check() {
    [[ -n $python ]] && "$python" -c 'import torch' 2>/dev/null || skip "there is no Python with PyTorch" || return
    "$python" tests/gpu/torch_step.py --check
}

# torch MODEL MODE NAME: what was measured when time ran out is kept, and so is what was compiled.
torch() {
    needs_torch || return
    TORCHINDUCTOR_CACHE_DIR=$state/inductor TRITON_CACHE_DIR=$state/triton \
        "$python" tests/gpu/torch_step.py --cases "$(model "$1")" --modes "$2" --seconds "$STEP_SECONDS" --out "$state/$3.json"
}

do_torch_sd21() { torch sd21 eager torch-sd21; }
do_torch_sdxl() { torch sdxl eager torch-sdxl; }
do_torch_sd21_compile() { torch sd21 compile torch-sd21-compile; }
do_torch_sdxl_compile() { torch sdxl compile torch-sdxl-compile; }
do_torch_sd21_max_autotune() { torch sd21 max-autotune torch-sd21-max-autotune; }
do_torch_sdxl_max_autotune() { torch sdxl max-autotune torch-sdxl-max-autotune; }

# gpus MODEL NAME: two ranks share the GPU, so that they are not faster than one; what crosses, memory and overlap are what is looked at.
gpus() {
    needs_gpus 1 || return
    figures "$2" ours "$programs/coordinator" bench gpus --device $GPU --models "$(model "$1")" --dtype bf16 --workers 2 --strides 1 \
        --steps 10 --repeats 1 --traces "$state/traces-$2" --json
}

do_gpus_sd21_quic() { ASYNCDIFF_NCCL=off gpus sd21 gpus-sd21-quic; }
do_gpus_sdxl_quic() { ASYNCDIFF_NCCL=off gpus sdxl gpus-sdxl-quic; }

do_gpus_sd21_nccl() {
    needs_gpus 1 || return
    needs_nccl $NCCL_SHARED "two ranks on one GPU" || return
    export NCCL_MULTI_RANK_GPU_ENABLE=1
    hear_nccl
    gpus sd21 gpus-sd21-nccl && used_nccl gpus-sd21-nccl
}

main
