#!/usr/bin/env bash
# Answer the three published prompts.
usage() {
    cat <<'EOF'
usage: bash scripts/examples/glm4/run_glm4_predict.sh PARALLEL CONFIG_PATH CKPT_PATH TOKENIZER DEVICE_NUM
  PARALLEL     single, or parallel: DEVICE_NUM processes share every matrix (tensor parallel)
  CONFIG_PATH  predict YAML, such as configs/glm4/predict_glm4_9b_chat.yaml
  CKPT_PATH    weights: a Hugging Face directory, a directory saved here, or one file
  TOKENIZER    tokenizer.model
  DEVICE_NUM   1 with single; with parallel a number that divides the query heads
EOF
}
set -euo pipefail
case "${1:-}" in -h|--help) usage; exit 0 ;; esac
if [ $# -ne 5 ]; then
    echo "error: $# arguments found; 5 are needed" >&2
    usage >&2
    exit 2
fi
case "$1:$5" in
    single:1) ;;
    parallel:[1-9]|parallel:[1-9][0-9]|parallel:[1-9][0-9][0-9]) ;;
    *) echo "error: PARALLEL is '$1' and DEVICE_NUM is '$5'; allowed: single and 1, or parallel and a number" >&2
       exit 2 ;;
esac
here="$(cd "$(dirname "$0")" && pwd)"
arguments=(--config_path "$2" --load_checkpoint "$3" --vocab_file "$4")
if [ "$5" = 1 ]; then
    exec python "$here/run_glm4_generate.py" "${arguments[@]}"
fi
line="$(printf '%q ' "$here/run_glm4_generate.py" "${arguments[@]}" --use_parallel)"
exec bash "$here/../../msrun_launcher.sh" "$line" "$5"
