#!/usr/bin/env bash
# Checks on a machine with a GPU of NVIDIA's what nothing else can check, and writes a report.
#
#   tests/gpu/run.sh [STATE]     STATE: a folder for results [default: target/gpu/COMMIT]
#
# In stages of a few minutes each. What is done is noted in the folder and not done again, so that a run that was cut off goes on where it was;
# remove the folder to begin anew. What cannot be done is skipped aloud, and the exit code is 1 if a stage failed. Needs cargo, and at run time
# libcuda, libnvrtc and libcublasLt (LD_LIBRARY_PATH).
set -uo pipefail
cd "$(dirname "$0")/../.."
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
state=$(realpath -m "${1:-${CARGO_TARGET_DIR:-target}/gpu/$commit}")
mkdir -p "$state"
exec </dev/null

# A stage that hangs is ended after this; cargo goes on with what it has built.
LIMIT=520
FEATURES=asyncdiff-worker/cuda,asyncdiff-coordinator/cuda
CAPTION="a red circle on a white background"
STAGES=(build build-tests devices parity golden-f32 golden-bf16 picture step)
release=${CARGO_TARGET_DIR:-target}/release

# Whether a GPU can be used, by what the program itself says.
has_gpu() {
    "$release/worker" devices | grep '^cuda:' >/dev/null && ! "$release/worker" devices | grep 'not usable' >/dev/null
}

needs_gpu() {
    has_gpu || { "$release/worker" devices; echo "skipped: no GPU can be used"; return 75; }
}

# A verdict of more than the tolerance is a failure, and so is a run that cannot be made.
golden() {
    needs_gpu || return
    "$release/coordinator" verify tests/golden --way processes --device cuda --dtype "$1"
}

do_build() { cargo build --release --bin coordinator --bin worker --bin check-picture --features "$FEATURES"; }
do_build_tests() { cargo test --release -p asyncdiff-model --features cuda --lib --no-run; }
do_devices() { "$release/worker" devices; }

do_parity() {
    needs_gpu || return
    ASYNCDIFF_GPU=1 cargo test --release -p asyncdiff-model --features cuda --lib -- cuda::executor --nocapture
}

do_golden_f32() { golden f32; }
do_golden_bf16() { golden bf16; }

do_picture() {
    needs_gpu || return
    "$release/coordinator" run "$CAPTION" --device cuda --workers 1 --out "$state/picture.png" &&
        "$release/check-picture" "$state/picture.png" "$CAPTION"
}

do_step() {
    needs_gpu || return
    ASYNCDIFF_DEVICE=cuda cargo bench -p asyncdiff-model --features cuda --bench unet_step
}

# run_stage NAME: its verdict is in NAME.verdict, what it printed in NAME.log.
run_stage() {
    local name=$1 began=$SECONDS code verdict
    if [[ -f $state/$name.verdict ]]; then
        echo "==> $name: $(<"$state/$name.verdict") (before)"
        return
    fi
    echo "==> $name"
    export -f has_gpu needs_gpu golden "do_${name//-/_}"
    export release state CAPTION FEATURES
    timeout --kill-after=10 "$LIMIT" bash -uo pipefail -c "do_${name//-/_}" 2>&1 | tee "$state/$name.log"
    code=${PIPESTATUS[0]}
    case $code in
        0) verdict=passed ;;
        75) verdict=skipped ;;
        124 | 137) echo "==> $name: not done after $LIMIT s; run this again to go on"; exit 1 ;;
        *) verdict="failed ($code)" ;;
    esac
    # Skipped is not done: the next run may be on a machine with a GPU. Builds are cheap where nothing is to be built.
    if [[ $verdict == skipped || $name == build* || $name == devices ]]; then
        printf '%s\n' "$verdict" >"$state/$name.now"
    else
        printf '%s\n' "$verdict" >"$state/$name.verdict"
    fi
    echo "==> $name: $verdict after $((SECONDS - began)) s"
    [[ $name != build* || $verdict == passed ]] || { report; exit 1; }
}

verdict_of() {
    cat "$state/$1.verdict" 2>/dev/null || cat "$state/$1.now" 2>/dev/null || echo "not run"
}

# report.md and report.json from what is in the folder.
report() {
    local gpus stage first=true
    gpus=$(grep '^cuda' "$state/devices.log" 2>/dev/null || echo "no GPU")
    {
        printf '# GPU checks of commit %s\n\n```text\n%s\n```\n\n| stage | verdict |\n|---|---|\n' "$commit" "$gpus"
        for stage in "${STAGES[@]}"; do printf '| %s | %s |\n' "$stage" "$(verdict_of "$stage")"; done
        printf '\n```text\n'
        grep -hE 'agree|^\| |time: ' "$state"/{golden-f32,golden-bf16,step}.log 2>/dev/null
        printf '```\n'
    } >"$state/report.md"
    {
        printf '{"commit":"%s","stages":{' "$commit"
        for stage in "${STAGES[@]}"; do
            $first || printf ','
            first=false
            printf '"%s":"%s"' "$stage" "$(verdict_of "$stage")"
        done
        printf '}}\n'
    } >"$state/report.json"
    cat "$state/report.md"
}

rm -f "$state"/*.now
for stage in "${STAGES[@]}"; do run_stage "$stage"; done
report
! grep -l '^failed' "$state"/*.verdict >/dev/null 2>&1
