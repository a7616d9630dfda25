#!/usr/bin/env bash
# Checks and measures on a machine with two or more GPUs of NVIDIA's what one GPU cannot: NCCL between them, and what more of them bring. Like run.sh,
# whose head says how stages, folders and variables work; run that first.
#
#   tests/gpu/several.sh [STATE [STAGE…]]     STATE: a folder for results [default: target/gpu/several-COMMIT]
#
# Each golden run and each measurement is made twice: with NCCL between the GPUs, and with QUIC and shared memory in its place (ASYNCDIFF_NCCL=off).
# The golden runs must have the same bits.
#
# Two boxes: cluster-configs/two-node-8gpu.toml says how they become one cluster. Then, on the one with the coordinator, this gives the figures that a
# report has of one box, of pictures of the coordinator's model (`bench gpus` has workers of its own machine only):
#
#   for n in 1 2 4 8; do for s in 1 2; do
#       coordinator submit "a kitten" --max-workers $n --components $n --stride $s --trace trace-n$n-s$s.json --json \
#           -o kitten-n$n-s$s.png >n$n-s$s.json
#   done; done
#   python3 tests/gpu/report.py --overlap trace-n*.json
cd "$(dirname "$0")/../.." || exit
source tests/gpu/stages.sh
begin tests/gpu/several.sh "$@"

# Of the driver, so that stages have names before anything is built. ASYNCDIFF_GPUS says otherwise.
gpus=${ASYNCDIFF_GPUS:-$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ')}
if [[ -n ${CUDA_VISIBLE_DEVICES:-} && -z ${ASYNCDIFF_GPUS:-} ]]; then
    gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .)
fi
((gpus >= 2)) || gpus=2
counts=(2)
for ((count = 4; count <= gpus; count *= 2)); do counts+=("$count"); done
((counts[-1] == gpus)) || counts+=("$gpus")

STAGES=(build devices
    golden-f32-nccl golden-f32-quic golden-bf16-nccl golden-bf16-quic golden-f16-nccl golden-f16-quic
    process picture)
for model in sd21 sdxl; do
    for count in "${counts[@]}"; do STAGES+=("gpus-$model-nccl-n$count" "gpus-$model-quic-n$count"); done
done

# The first NCCL that has everything that is asked of it.
NCCL_LEAST=21304

with_nccl() {
    needs_gpus 2 || return
    needs_nccl $NCCL_LEAST "a link between GPUs" || return
    hear_nccl
}

with_quic() {
    needs_gpus 2 || return
    export ASYNCDIFF_NCCL=off
}

golden_nccl() { with_nccl && golden "$1" "$2" && used_nccl "$1"; }

do_golden_f32_nccl() { golden_nccl golden-f32-nccl f32; }
do_golden_f32_quic() { with_quic && golden golden-f32-quic f32; }
do_golden_bf16_nccl() { golden_nccl golden-bf16-nccl bf16; }
do_golden_bf16_quic() { with_quic && golden golden-bf16-quic bf16; }
do_golden_f16_nccl() { golden_nccl golden-f16-nccl f16; }
do_golden_f16_quic() { with_quic && golden golden-f16-quic f16; }

# All GPUs in one process, as people start it: a coordinator, `worker join`, `submit`.
do_process() {
    needs_gpus 2 || return
    local place serving joined code
    place=$(mktemp -d) || return
    # Not by `ours`: the processes are ended by their ids.
    LD_LIBRARY_PATH=$(library_path)
    export LD_LIBRARY_PATH
    cat >"$place/coordinator.toml" <<END
[cluster]
listen = "127.0.0.1"
advertise = "127.0.0.1"
control_port = 0
data_port = 0
[api]
listen = "127.0.0.1:0"
END
    "$programs/coordinator" serve --config "$place/coordinator.toml" --state-dir "$place/coordinator" \
        ${ASYNCDIFF_MODEL:+--model "$ASYNCDIFF_MODEL"} >"$place/serve.log" 2>&1 &
    serving=$!
    for _ in {1..100}; do
        grep -qo 'adj1\.[^ ]*' "$place/serve.log" && break
        sleep 0.2
    done
    ASYNCDIFF_JOIN_LINE=$(grep -o 'adj1\.[^ ]*' "$place/serve.log" | head -1) "$programs/worker" join --device $GPUS \
        --state-dir "$place/worker" --cache-limit 0 >"$place/worker.log" 2>&1 &
    joined=$!
    figures process "$programs/coordinator" submit "$CAPTION" --state-dir "$place/coordinator" --components "$gpus" \
        --split-guidance=false --out "$state/process.png" --trace "$state/process-trace.json" --json &&
        looks_right "$state/process.png"
    code=$?
    "$programs/coordinator" workers --state-dir "$place/coordinator"
    kill "$joined" "$serving"
    wait "$joined" "$serving"
    tail -n 30 "$place/worker.log" "$place/serve.log"
    rm -rf "$place"
    return $code
}

do_picture() {
    needs_gpus 2 || return
    figures picture ours "$programs/coordinator" run "$CAPTION" --device $GPUS --components "$gpus" --split-guidance=false \
        --out "$state/picture.png" --trace "$state/picture-trace.json" --json || return
    looks_right "$state/picture.png"
}

# measure MODEL CARRIER WORKERS: with strides 1 and 2, against one worker in the same run.
measure() {
    local name=gpus-$1-$2-n$3 repeats=3
    "with_$2" || return
    needs_gpus "$3" || return
    # Parameters are sent for each job.
    [[ $1 == sd21 && -z $rehearsal ]] || repeats=1
    figures "$name" ours "$programs/coordinator" bench gpus --device $GPUS --models "$(model "$1")" --dtype bf16 --workers "$3" --strides 1,2 \
        --repeats $repeats --traces "$state/traces-$name" --json || return
    [[ $2 == quic ]] || used_nccl "$name"
}

for model in sd21 sdxl; do
    for carrier in nccl quic; do
        for count in "${counts[@]}"; do
            eval "do_gpus_${model}_${carrier}_n$count() { measure $model $carrier $count; }"
        done
    done
done

main
