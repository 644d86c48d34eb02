#!/usr/bin/env bash
# Talk to the model the quickstart trained (or to the directory given).
set -euo pipefail
from="$PWD"
cd "$(dirname "$0")/.."
model=output/quickstart/huggingface
case "${1:-}" in
    -h|--help) echo "usage: bash scripts/chat.sh [MODEL_DIR]   (default: $model in the checkout)"; exit 0 ;;
    '') ;;
    *) model="$1"; [ ! -e "$from/$1" ] || model="${from%/}/$1" ;;
esac
if [ ! -e "$model" ]; then
    echo "error: there is no $model; the default one is made by: bash scripts/quickstart.sh" >&2
    exit 2
fi
. scripts/_environment.sh
use_environment viz
exec python -m mindformers chat "$model" --no_history
