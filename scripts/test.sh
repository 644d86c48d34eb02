#!/usr/bin/env bash
# Run the tests: everything with the native kernels, then what computes in their portable form, then a part as on
# a machine without a compiler. With arguments, which go to pytest, one run in the form the environment asks for.
# Makes a virtual environment when none is active.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
    -h|--help) echo "usage: bash scripts/test.sh [pytest arguments]"; exit 0 ;;
esac
. scripts/_environment.sh
use_environment test,viz,eval,serve,servetest
[ "$#" -eq 0 ] || exec python -m pytest "$@"

echo "-- native"
python -m pytest
echo "-- portable"
MINDFORMERS_BACKEND=portable python -m pytest tests/parity tests/unit/ops tests/unit/modules tests/unit/models \
    tests/unit/generation tests/unit/training tests/unit/tasks tests/faults/test_training_faults.py \
    tests/faults/test_generation_faults.py
echo "-- no compiler"
empty="$(mktemp -d)"
trap 'rm -rf "$empty"' EXIT
env -u CXX -u MINDFORMERS_BACKEND PATH="$VIRTUAL_ENV/bin" MINDFORMERS_CACHE="$empty/cache" TMPDIR="$empty" \
    python -m pytest tests/parity/test_golden_block.py tests/unit/ops tests/unit/generation \
    tests/unit/models/test_base_model.py tests/unit/models/test_glm2.py
