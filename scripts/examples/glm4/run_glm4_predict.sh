#!/usr/bin/env bash
# Answer the three published prompts.
usage() {
    cat <<'EOF'
usage: bash scripts/examples/glm4/run_glm4_predict.sh PARALLEL CONFIG_PATH CKPT_PATH TOKENIZER DEVICE_NUM
  PARALLEL     single (parallel needs several processes, which this release does not start)
  CONFIG_PATH  predict YAML, such as configs/glm4/predict_glm4_9b_chat.yaml
  CKPT_PATH    weights: a Hugging Face directory, a directory saved here, or one file
  TOKENIZER    tokenizer.model
  DEVICE_NUM   1
EOF
}
set -euo pipefail
case "${1:-}" in -h|--help) usage; exit 0 ;; esac
if [ $# -ne 5 ]; then
    echo "error: $# arguments found; 5 are needed" >&2
    usage >&2
    exit 2
fi
if [ "$1" != single ] || [ "$5" != 1 ]; then
    echo "error: PARALLEL is '$1' and DEVICE_NUM is '$5'; allowed: single and 1" >&2
    exit 2
fi
here="$(cd "$(dirname "$0")" && pwd)"
exec python "$here/run_glm4_generate.py" --config_path "$2" --load_checkpoint "$3" --vocab_file "$4"
