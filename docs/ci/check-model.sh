#!/usr/bin/env bash
# Checks a model with pfmc, without a container: compiles it, reads the result back and compares it with the model afresh, and
# checks what every pass promises. Copy it into your repository; .github/workflows/pfmc.yml (docs/ci/pfmc.yml) calls it.
#
#   check-model.sh MODEL.onnx [TARGET...]        targets: asic and glass when none is named
#
# What it takes from the environment:
#   PFMC          the command; without it pfmc of the PATH, else it is built
#   PFMC_SOURCE   folder of pfmc's sources to build from, or else
#   PFMC_GIT      repository to build from, and PFMC_REV, a tag or commit of it
#   PFMC_OPTIONS  options for compiling and checking, e.g. "--bits 8"
#   RESULTS       folder for results (pfmc-results): TARGET/ with the compiled folder, TARGET.junit.xml and TARGET.sarif
#
# Exit status: 0 when all is right, 1 when a check failed, 2 for wrong usage or where there is no pfmc.
set -euo pipefail

if [ $# -lt 1 ]; then
  echo "usage: check-model.sh MODEL.onnx [TARGET...]" >&2
  exit 2
fi
model="$1"
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(asic glass)
results="${RESULTS:-pfmc-results}"
read -ra options <<<"${PFMC_OPTIONS:-}"
mkdir -p "$results"

if [ -z "${PFMC:-}" ]; then
  if [ -n "${PFMC_SOURCE:-}" ]; then
    cargo install --quiet --locked --path "$PFMC_SOURCE/compiler" --root "$results/tools"
    PFMC="$results/tools/bin/pfmc"
  elif [ -n "${PFMC_GIT:-}" ]; then
    cargo install --quiet --locked --git "$PFMC_GIT" ${PFMC_REV:+--rev "$PFMC_REV"} --root "$results/tools" pfmc
    PFMC="$results/tools/bin/pfmc"
  elif ! PFMC=$(command -v pfmc); then
    echo "there is no pfmc: install it, or set PFMC, PFMC_SOURCE or PFMC_GIT" >&2
    exit 2
  fi
fi
"$PFMC" --version

failed=0
step() { # WHAT COMMAND...: says which command failed and goes on with the others
  echo "== $1"
  shift
  "$@" || { failed=1; echo "failed: $*" >&2; }
}
for target in "${targets[@]}"; do
  step "$target: compile and read back" \
    "$PFMC" "$model" --target "$target" -o "$results/$target" "${options[@]}"
  step "$target: compare with the model afresh" \
    "$PFMC" verify "$results/$target" --model "$model"
  step "$target: check every pass" \
    "$PFMC" check "$model" --target "$target" "${options[@]}" \
    --junit "$results/$target.junit.xml" --sarif "$results/$target.sarif"
done
exit "$failed"
