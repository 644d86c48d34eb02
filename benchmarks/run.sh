#!/usr/bin/env bash
# Ours and the rivals on the same weights, prompts and threads, in turn; writes a table and a plot.
#   bash benchmarks/run.sh [--torch-python PATH] [--llama-python PATH] [--no-rivals] [arguments of benchmarks/run.py]
# The rivals' environments are made once under .bench, from pinned versions; building llama.cpp takes
# 15 minutes or more. The two options name interpreters that have them already. --quick is a trial run.
set -euo pipefail
cd "$(dirname "$0")/.."

# torch's and transformers' versions are those of the parity extra in pyproject.toml.
TORCH="torch==2.13.0 transformers==5.24.0 peft==0.21.0 safetensors==0.8.0"
LLAMA="llama-cpp-python==0.3.36 gguf==0.19.0"
TORCH_INDEX="${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}"   # wheels without CUDA

torch_python="" llama_python="" rivals=yes plain=no
passed=()
while [ $# -gt 0 ]; do
    case "$1" in
        --torch-python) torch_python="${2:?--torch-python needs a path}"; shift 2 ;;
        --llama-python) llama_python="${2:?--llama-python needs a path}"; shift 2 ;;
        --no-rivals) rivals=no; shift ;;
        -h|--help) sed -n '2,5s/^# \{0,1\}//p' "$0"; plain=yes; passed+=("$1"); shift ;;
        --list) plain=yes; passed+=("$1"); shift ;;
        *) passed+=("$1"); shift ;;
    esac
done

. scripts/_environment.sh
use_environment viz

# environment NAME PINS [pip arguments]: make .bench/NAME, or say why not; prints its interpreter.
environment() {
    local name="$1" pins="$2" folder=".bench/$1"
    shift 2
    if [ "$(cat "$folder/.installed" 2> /dev/null)" != "$pins" ]; then
        say "installing $pins into $folder; the log is $folder.log"
        mkdir -p .bench
        python -m venv "$folder"
        # shellcheck disable=SC2086 -- the pins are several words
        if ! "$folder/bin/pip" install --disable-pip-version-check "$@" $pins > "$folder.log" 2>&1; then
            say "note: $name cannot be installed ($(tail -n 1 "$folder.log")); it is left out"
            return 0
        fi
        printf '%s\n' "$pins" > "$folder/.installed"
    fi
    printf '%s\n' "$PWD/$folder/bin/python"
}

if [ "$rivals" = yes ] && [ "$plain" = no ]; then
    [ -n "$torch_python" ] || torch_python="$(environment torch "$TORCH" --extra-index-url "$TORCH_INDEX")"
    [ -n "$llama_python" ] || llama_python="$(CMAKE_ARGS=-DGGML_NATIVE=ON environment llama "$LLAMA")"
fi
exec python -m benchmarks.run ${torch_python:+--torch-python "$torch_python"} \
    ${llama_python:+--llama-python "$llama_python"} ${passed[@]+"${passed[@]}"}
