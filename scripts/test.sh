#!/usr/bin/env bash
# Run the tests. Makes a virtual environment when none is active. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
    -h|--help) echo "usage: bash scripts/test.sh [pytest arguments]"; exit 0 ;;
esac
. scripts/_environment.sh
use_environment test,viz
exec python -m pytest "$@"
