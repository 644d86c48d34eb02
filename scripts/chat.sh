#!/usr/bin/env bash
# Talk to the model the quickstart trained (or to the directory given).
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
    -h|--help) echo "usage: bash scripts/chat.sh [MODEL_DIR]   (default: output/quickstart/huggingface)"; exit 0 ;;
esac
. scripts/_environment.sh
use_environment viz
exec python -m mindformers chat "${1:-output/quickstart/huggingface}" --no_history
