#!/usr/bin/env bash
# Start a script of this library as several processes: bash scripts/msrun_launcher.sh "run_mindformer.py ..." 8
# --help shows every form.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
python="python"
needs='import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, ("mindspore", "pydantic"))))'
if ! { command -v python && python -c "$needs"; } > /dev/null 2>&1; then
    [ -x "$here/.venv/bin/python" ] && python="$here/.venv/bin/python"
fi
ulimit -u unlimited 2> /dev/null || true
exec "$python" -m mindformers.cli.launch "$@"
