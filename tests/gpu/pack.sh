#!/usr/bin/env bash
# Builds what run.sh and several.sh need, for a machine with GPUs and without cargo or network, and packs it.
#
#   tests/gpu/pack.sh [FOLDER]     [default: target/gpu-programs]; then, there: ASYNCDIFF_BINARIES=FOLDER tests/gpu/run.sh
#
# The folder gets programs.tar.xz (coordinator and worker with the feature `cuda`, without the embedded demo model, which the tree has; the tests of
# the crate asyncdiff-model) and COMMIT. With the tree (git archive) it must be less than 64 MiB. Nothing of CUDA's is needed; the
# programs run where the C library is no older than the one that is named at the end.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(realpath -m "${1:-target/gpu-programs}")
profile=${ASYNCDIFF_PROFILE:-release}
built=${CARGO_TARGET_DIR:-target}/$([[ $profile == dev ]] && echo debug || echo "$profile")
LIMIT_BYTES=$((64 << 20))

# Without the tests' own programs, which have the demo model.
cargo build --profile "$profile" -p asyncdiff-coordinator -p asyncdiff-worker --bin coordinator --bin worker --no-default-features \
    --features asyncdiff-coordinator/cuda,asyncdiff-worker/cuda
tests=$(cargo test --profile "$profile" -p asyncdiff-model --features cuda --lib --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)

mkdir -p "$out"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for program in coordinator worker; do strip -o "$folder/$program" "$built/$program"; done
strip -o "$folder/model-tests" "$tests"
tar -C "$folder" -c . | xz -T0 -6 >"$out/programs.tar.xz.part"
mv "$out/programs.tar.xz.part" "$out/programs.tar.xz"
git describe --always --dirty --exclude '*' >"$out/COMMIT"

tree=$(git ls-files -z | xargs -0 stat -c %s | awk '{sum += $1} END {print sum}')
packed=$(stat -c %s "$out/programs.tar.xz")
printf '%s: %d MiB, and the tree %d MiB\n' "$out" $((packed >> 20)) $((tree >> 20))
echo "needs $(objdump -T "$folder"/* 2>/dev/null | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)"
((packed + tree < LIMIT_BYTES)) || { echo "together more than $((LIMIT_BYTES >> 20)) MiB"; exit 1; }
