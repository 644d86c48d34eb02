#!/usr/bin/env bash
# Run the tests: everything with the native kernels, then what computes in their portable form but for tests that
# choose a form themselves, then a part as on a machine without a compiler. With arguments, which go to pytest, one run in the form the environment asks for.
# Makes a virtual environment when none is active.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
    -h|--help) echo "usage: bash scripts/test.sh [pytest arguments]"; exit 0 ;;
esac
. scripts/_environment.sh
use_environment test,viz,eval,serve,servetest
[ "$#" -eq 0 ] || exec python -m pytest "$@"

# Two files at a time: a test of a small network keeps one core busy. What fails beside others, as one of terminals,
# browsers or deadlines may on a busy machine, has to pass alone.
tests() {
    python -m pytest -n 2 --dist loadfile "$@" || {
        [ "$?" -eq 1 ] && echo "-- once more, alone: what failed" \
            && python -m pytest --last-failed --last-failed-no-failures none "$@"
    }
}

echo "-- native"
tests
echo "-- portable"
MINDFORMERS_BACKEND=portable tests --form-of-environment --ignore tests/unit/ops/native \
    tests/parity tests/unit/ops tests/unit/modules tests/unit/models \
    tests/unit/generation tests/unit/training tests/unit/tasks/test_finetune.py tests/unit/tasks/test_lora_run.py \
    tests/unit/tasks/test_pipeline_and_predict.py tests/faults/test_training_faults.py \
    tests/faults/test_generation_faults.py
echo "-- no compiler"
empty="$(mktemp -d)"
trap 'rm -rf "$empty"' EXIT
(
    unset CXX MINDFORMERS_BACKEND
    export PATH="$VIRTUAL_ENV/bin" MINDFORMERS_CACHE="$empty/cache" TMPDIR="$empty"
    tests tests/parity/test_golden_block.py tests/unit/ops tests/unit/generation \
        tests/unit/models/test_base_model.py tests/unit/models/test_glm2.py
)
