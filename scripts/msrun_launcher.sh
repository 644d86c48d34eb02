#!/usr/bin/env bash
# Start a script of this library as several processes: bash scripts/msrun_launcher.sh "run_mindformer.py ..." 8
# --help shows every form.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
export LOG_MF_PATH="${LOG_MF_PATH:-$PWD/output/log${MF_LOG_SUFFIX:+_$MF_LOG_SUFFIX}}"

# The Python that is active, when it holds what the package needs; else that of the environment beside the checkout.
python="python"
needs='import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, ("mindspore", "pydantic"))))'
if ! { command -v python && python -c "$needs"; } > /dev/null 2>&1; then
    if [ -x "$here/.venv/bin/python" ]; then
        python="$here/.venv/bin/python"
    elif ! command -v python > /dev/null; then
        echo "error: no python on the PATH; install with: bash scripts/quickstart.sh" >&2
        exit 2
    fi
fi
exec "$python" -m mindformers.cli.launch "$@"
