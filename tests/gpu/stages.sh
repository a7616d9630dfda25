# Stages that are done once, and what they need: programs, libraries, Python. Sourced by run.sh and several.sh; not a program.
#
# A stage NAME is a function do_NAME (with _ for -). Its exit code is its verdict: 0 passed, 75 skipped (it has said why), everything else failed.
# What it prints is kept in STATE/NAME.log, figures in STATE/NAME.json, its verdict in STATE/NAME.verdict if it is final, else in STATE/NAME.now.
set -uo pipefail

# A stage that hangs is ended after this; another run begins with it again.
LIMIT=520
# A stage is not begun with less than this left of ASYNCDIFF_GPU_SECONDS.
LEAST_SECONDS=150
SKIPPED=75
CAPTION="a red circle on a white background"
export CAPTION

die() {
    echo "$*" >&2
    exit 2
}

skip() {
    echo "skipped: $*"
    return $SKIPPED
}

# begin SCRIPT [STATE [STAGE…]]: sets $script, $commit, $state, $only.
begin() {
    script=$(realpath "$1")
    commit=$(git rev-parse --short HEAD 2>/dev/null || cat "${ASYNCDIFF_BINARIES:-target/gpu-programs}/COMMIT" 2>/dev/null || echo unknown)
    rehearsal=${ASYNCDIFF_GPU_REHEARSAL:-}
    state=$(realpath -m "${2:-target/gpu/$(basename "$1" .sh)-$commit${rehearsal:+-rehearsal}}")
    only=("${@:3}")
    mkdir -p "$state" || die "cannot make $state"
    exec </dev/null
    find_python
    find_programs
    # What computes: one GPU, or all.
    export GPU=cuda:0 GPUS=cuda
    GOLDEN=tests/golden golden_only=()
    # With small models, so that the way through all stages can be tried without a GPU: on the CPU, or with emulated libraries.
    case $rehearsal in
        '') ;;
        cpu) GPU=cpu GPUS=cpu GOLDEN=tests/golden/sd21 ;;
        # Emulated GPUs take ten seconds for a run.
        cuda) golden_only=(--only sdxl/seq --only sdxl/n2_s1_w1_ts0) ;;
        *) die "ASYNCDIFF_GPU_REHEARSAL is cpu or cuda" ;;
    esac
}

# The model that a stage is meant for, or a small one.
model() { if [[ -n $rehearsal ]]; then echo tiny; else echo "$1"; fi; }

find_python() {
    local candidate
    python=
    for candidate in "${ASYNCDIFF_PYTHON:-}" python3 python; do
        if [[ -n $candidate ]] && command -v "$candidate" >/dev/null; then
            python=$candidate
            return
        fi
    done
}

has_torch() { [[ -n $python ]] && "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; }

# What was built elsewhere (pack.sh), if there is such a folder; else what cargo builds here.
find_programs() {
    packed=${ASYNCDIFF_BINARIES:-}
    if [[ -z $packed && -f target/gpu-programs/programs.tar.xz ]] && ! command -v cargo >/dev/null; then
        packed=target/gpu-programs
    fi
    programs=${CARGO_TARGET_DIR:-target}/release
    [[ -z $packed ]] || programs=$state/programs
    [[ -z $packed || ! -x $packed/coordinator ]] || programs=$(realpath "$packed")
    # Packed programs have no model of their own.
    [[ -z $packed ]] || export ASYNCDIFF_MODEL=${ASYNCDIFF_MODEL:-coordinator/demo-model/model}
}

do_build() {
    local features=asyncdiff-worker/cuda,asyncdiff-coordinator/cuda tests
    if [[ -n $packed ]]; then
        [[ $programs != "$state/programs" ]] || unpack || return
        "$programs/coordinator" --version
        return
    fi
    command -v cargo >/dev/null ||
        skip "there is neither cargo nor a folder of programs; make one elsewhere by tests/gpu/pack.sh and name it in ASYNCDIFF_BINARIES" || return
    cargo build --release --bin coordinator --bin worker --bin check-picture --features "$features" || return
    tests=$(cargo test --release -p asyncdiff-model --features cuda --lib --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
    [[ -n $tests ]] && ln -sf "$(realpath "$tests")" "$state/model-tests"
}

unpack() {
    local archive=$packed/programs.tar.xz
    [[ -f $archive ]] || { echo "$packed has neither a coordinator nor programs.tar.xz"; return 1; }
    mkdir -p "$programs"
    [[ ! -x $programs/coordinator || $archive -nt $programs/coordinator ]] || return 0
    # -m: the time of unpacking, which is compared with the archive's.
    tar -xmJf "$archive" -C "$programs" ||
        "$python" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$archive" "$programs"
}

has_programs() { [[ -x $programs/coordinator && -x $programs/worker ]]; }

# The folders of CUDA's libraries, the likeliest first: PyTorch's, which fit the driver if PyTorch does, then the toolkit's.
library_folders() {
    [[ -z $python ]] || "$python" - <<'END' 2>/dev/null
import glob, importlib.util, os
for package, inner in (("nvidia", ["*/lib", "*/lib64"]), ("torch", ["lib"])):
    found = importlib.util.find_spec(package)
    for root in (found.submodule_search_locations if found else []) or []:
        for pattern in inner:
            print(*sorted(glob.glob(os.path.join(root, pattern))), sep="\n")
END
    printf '%s\n' /usr/local/cuda/lib64 /usr/local/cuda-*/lib64 /usr/lib/x86_64-linux-gnu /usr/lib64
}

# Links to CUDA's libraries in one folder, also by the names without a version, which some of them are opened by and wheels do not have.
link_libraries() {
    local folder file name folders='' links=$state/libraries
    rm -rf "$links"
    mkdir -p "$links"
    while read -r folder; do
        [[ -d $folder ]] || continue
        for file in "$folder"/lib{cublas,cublasLt,cudnn*,nccl,nvrtc*}.so*; do
            [[ -f $file ]] || continue
            name=$(basename "$file")
            [[ -e $links/$name ]] || ln -s "$file" "$links/$name"
            [[ -e $links/${name%%.so*}.so ]] || ln -s "$file" "$links/${name%%.so*}.so"
        done
        # The system's are found anyway, and must not come before a program's own.
        [[ $folder == /usr/lib* ]] || folders+=:$folder
    done < <(library_folders)
    file=$(ldconfig -p 2>/dev/null | sed -n 's/.*libcuda\.so\.1 .*=> //p' | head -1)
    [[ -z $file || -e $links/libcuda.so ]] || ln -s "$file" "$links/libcuda.so"
    # What these libraries open themselves.
    echo "$folders" >"$links/folders"
}

# What our programs find CUDA's libraries by: those that the caller has named come first. PyTorch is left to find its own.
library_path() {
    [[ -d $state/libraries ]] || link_libraries
    echo "${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$state/libraries$(cat "$state/libraries/folders")"
}

ours() { LD_LIBRARY_PATH=$(library_path) "$@"; }

# How many GPUs can be used, by what the program itself says.
count_gpus() {
    local lines
    lines=$(ours "$programs/worker" devices 2>/dev/null) || { echo 0; return; }
    # A line without a number is about all of them.
    if grep -q '^cuda  not usable' <<<"$lines"; then echo 0; else grep '^cuda:' <<<"$lines" | grep -vc 'not usable'; fi
}

# needs_gpus N
needs_gpus() {
    local count
    has_programs || skip "there are no programs" || return
    [[ $rehearsal != cpu ]] || return 0
    count=$(count_gpus)
    ((count >= $1)) || skip "it takes $1 GPU(s), and $count can be used (the stage devices says why)"
}

needs_torch() {
    [[ -z $rehearsal || -z $python ]] || "$python" -c 'import torch' 2>/dev/null || skip "there is no Python with PyTorch" || return
    [[ -n $rehearsal ]] || has_torch || skip "there is no Python with a PyTorch that sees a GPU (ASYNCDIFF_PYTHON names one)"
}

# NCCL's version as a number, such as 23007 for 2.30.7; 0 without it.
nccl_version() {
    [[ -n $python ]] || { echo 0; return; }
    ours "$python" -c 'import ctypes
version = ctypes.c_int(0)
ctypes.CDLL("libnccl.so.2").ncclGetVersion(ctypes.byref(version))
print(version.value)' 2>/dev/null || echo 0
}

# needs_nccl VERSION WHAT
needs_nccl() {
    local version
    version=$(nccl_version)
    ((version >= $1)) && return
    skip "NCCL's version is $version, and $2 takes $1"
}

do_devices() {
    has_programs || skip "there are no programs" || return
    link_libraries
    ls -l "$state/libraries" | sed -n 's/.* \(lib[^ ]* -> .*\)/\1/p'
    ours "$programs/worker" devices
    nvidia-smi 2>/dev/null || echo "nvidia-smi: not there"
    nvidia-smi topo -m 2>/dev/null || true
}

# A picture of CAPTION shows what it says; packed programs have nobody who looks.
looks_right() {
    [[ -x $programs/check-picture ]] || { echo "nobody looked at $1: there is no check-picture"; return 0; }
    "$programs/check-picture" "$1" "$CAPTION"
}

# golden NAME TYPE OPTION…: a verdict of more than the tolerance is a failure, and so is a run that cannot be made.
golden() {
    local name=$1 type=$2
    takes_type "$type" || return
    ours "$programs/coordinator" verify "$GOLDEN" --way processes --device "$GPUS" --dtype "$type" --json \
        "${golden_only[@]}" "${@:3}" >"$state/$name.part" 2>"$state/$name.notes"
    local code=$?
    cat "$state/$name.notes"
    # Lines of JSON, one for each run and part.
    mv "$state/$name.part" "$state/$name.jsonl"
    grep -v '"kind":"passed"' "$state/$name.jsonl"
    echo "$(grep -c '"kind":"passed"' "$state/$name.jsonl") of $(wc -l <"$state/$name.jsonl") agree"
    return $code
}

takes_type() { [[ $1 != f16 || $rehearsal != cpu ]] || skip "f16 is for GPUs"; }

# What NCCL says goes to files: workers that our programs start have no output of their own.
hear_nccl() { export NCCL_DEBUG=${NCCL_DEBUG:-WARN} NCCL_DEBUG_FILE=${NCCL_DEBUG_FILE:-$state/nccl.%h.%p.log}; }

# used_nccl NAME: fails if nothing of a stage went from GPU to GPU, for then what was checked is another carrier.
used_nccl() {
    grep -qs 'from GPU to GPU over NCCL' "$state/$1.notes" && return
    grep -os '"nccl_bytes_per_step": *[0-9.e+-]*' "$state/$1.json" | grep -q '[1-9]' && return
    echo "nothing went over NCCL"
    return 1
}

# figures NAME COMMAND…: what it prints is JSON.
figures() {
    "${@:2}" >"$state/$1.part" || return
    mv "$state/$1.part" "$state/$1.json"
    echo "figures are in $1.json"
}

# run_stage NAME
run_stage() {
    local name=$1 began=$SECONDS limit=$LIMIT left code verdict
    if [[ -f $state/$name.verdict ]]; then
        echo "==> $name: $(<"$state/$name.verdict") (before)"
        return
    fi
    if [[ -n ${ASYNCDIFF_GPU_SECONDS:-} ]]; then
        left=$((ASYNCDIFF_GPU_SECONDS - SECONDS - 15))
        ((left >= LEAST_SECONDS)) || { echo "==> $left s are left: run this again to go on with $name"; exit 3; }
        ((left >= limit)) || limit=$left
    fi
    echo "==> $name"
    ASYNCDIFF_GPU_STAGE=$name timeout --kill-after=10 "$limit" bash "$script" "$state" 2>&1 | tee "$state/$name.log"
    code=${PIPESTATUS[0]}
    case $code in
        0) verdict=passed ;;
        "$SKIPPED") verdict="skipped: $(sed -n 's/^skipped: //p' "$state/$name.log" | tail -1)" ;;
        124 | 137) verdict="not done after $limit s" ;;
        *) verdict="failed ($code)" ;;
    esac
    # Neither skipped nor stopped is done: the next run may be on a machine with a GPU, or a quicker one. What was built is looked at each time.
    case $verdict in
        passed | failed*) [[ $name == build || $name == devices ]] || echo "$verdict" >"$state/$name.verdict" ;;
    esac
    echo "$verdict" >"$state/$name.now"
    echo "==> $name: $verdict, $((SECONDS - began)) s"
    [[ $name != build || $verdict != failed* ]] || exit 1
}

verdict_of() { cat "$state/$1.verdict" 2>/dev/null || cat "$state/$1.now" 2>/dev/null || echo "not run"; }

# report.md and report.json from what is in the folder: with all figures by report.py, else of the stages alone.
report() {
    local stage title=$commit${rehearsal:+, a rehearsal with small models on $rehearsal: no figure counts}
    for stage in "${STAGES[@]}"; do printf '%s\t%s\n' "$stage" "$(verdict_of "$stage")"; done >"$state/stages.tsv"
    if [[ -n $python ]] && "$python" tests/gpu/report.py "$state" "$title"; then
        return
    fi
    {
        printf '# GPU checks of commit %s\n\nThere is no Python: figures are in the JSON files beside this one.\n\n' "$title"
        printf '| stage | verdict |\n|---|---|\n'
        sed 's/\t/ | /; s/^/| /; s/$/ |/' "$state/stages.tsv"
    } >"$state/report.md"
    {
        printf '{"commit": "%s", "stages": {' "$commit"
        sed 's/["\\]/\\&/g; s/\(.*\)\t\(.*\)/"\1": "\2"/' "$state/stages.tsv" | paste -sd,
        printf '}}\n'
    } >"$state/report.json"
}

# main: all stages, or those that were named; or one within another process, with a limit.
main() {
    local stage
    if [[ -n ${ASYNCDIFF_GPU_STAGE:-} ]]; then
        stage=$ASYNCDIFF_GPU_STAGE
        unset ASYNCDIFF_GPU_STAGE
        "do_${stage//-/_}"
        exit
    fi
    rm -f "$state"/*.now
    trap 'report; cat "$state/report.md"; echo; echo "report: $state/report.md and report.json"' EXIT
    for stage in "${only[@]:-}"; do
        [[ -z $stage || " ${STAGES[*]} " == *" $stage "* ]] || die "$stage is no stage; they are: ${STAGES[*]}"
    done
    [[ ${#only[@]} -gt 0 ]] || only=("${STAGES[@]}")
    for stage in "${only[@]}"; do run_stage "$stage"; done
    ! grep -l '^failed' "$state"/*.verdict "$state"/*.now >/dev/null 2>&1
}
