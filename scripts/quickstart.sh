#!/usr/bin/env bash
# From nothing to a GLM-4 that answers: vocabulary, data, finetuning, conversion, answers. A few minutes on two cores.
usage() {
    cat <<'EOF'
usage: bash scripts/quickstart.sh [--chat] [--output DIR]
  --chat        talk to the model afterwards
  --output DIR  where everything goes (default: output/quickstart in the checkout); an earlier run there is replaced
EOF
}
set -euo pipefail
from="$PWD"
cd "$(dirname "$0")/.."
out=output/quickstart
chat=no
while [ $# -gt 0 ]; do
    case "$1" in
        -h|--help) usage; exit 0 ;;
        --chat) chat=yes ;;
        --output)
            case "${2:-}" in
                ''|-*) echo "error: --output needs a directory" >&2; usage >&2; exit 2 ;;
                /*) out="$2" ;;
                *) out="$2"; [ "$from" -ef . ] || out="${from%/}/$2" ;;
            esac
            shift ;;
        *) echo "error: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
. scripts/_environment.sh
use_environment viz
begin=$(date +%s)
step() { printf '\n== %s\n' "$*"; }
shown() {   # the words of a command as one types them
    local word line=""
    for word in "$@"; do
        case "$word" in *[!A-Za-z0-9_./=-]*) word="\"$word\"" ;; esac
        line="$line $word"
    done
    printf '%s' "${line# }"
}
run() { printf '$ %s\n' "$(shown "$@")"; "$@"; }
tools=mindformers/tools/dataset_preprocess/glm4
config=configs/glm4/finetune_glm4_tiny_cpu.yaml

data=examples/tiny_chat

step "1/7 a vocabulary in GLM-4's format, trained from the data sets"
run python $data/train_rank_file.py --data $data/alpaca_tiny.json $data/calls_tiny.json --vocab_size 2034 \
    --output "$out/tokenizer.model" --overwrite
step "2/7 questions and tool calls as GLM-4 conversations, then as MindRecord"
for name in alpaca calls; do
    run python $tools/alpaca_converter.py --data_path $data/${name}_tiny.json \
        --output_path "$out/${name}_tiny.jsonl" --overwrite
done
run python $tools/glm4_preprocess.py --input_glob "$out/alpaca_tiny.jsonl" --vocab_file "$out/tokenizer.model" \
    --output_file "$out/alpaca_tiny.mindrecord" --seq_length 40 --overwrite --preview 2
run python $tools/glm4_preprocess.py --input_glob "$out/*_tiny.jsonl" --vocab_file "$out/tokenizer.model" \
    --output_file "$out/tiny_chat.mindrecord" --seq_length 256 --overwrite
step "3/7 finetuning a tiny GLM-4"
rm -rf "$out/finetune"
run python run_mindformer.py --config $config --run_mode finetune --train_dataset "$out/tiny_chat.mindrecord" \
    --train_dataset.packing True --runner_config.batch_size 2 --output_dir "$out/finetune"
step "4/7 conversion to a Hugging Face directory, and back"
run python convert_weight.py --model glm4 --reversed --input_path "$out/finetune/checkpoint" \
    --output_path "$out/huggingface" --tokenizer "$out/tokenizer.model" --force
run python convert_weight.py --model glm4 --input_path "$out/huggingface" --output_path "$out/glm4_tiny.safetensors" --force
step "5/7 the finetuned model answers (from the Hugging Face directory)"
run python run_mindformer.py --config configs/glm4/predict_glm4_tiny_cpu.yaml --run_mode predict \
    --load_checkpoint "$out/huggingface" --processor.tokenizer.vocab_file "$out/tokenizer.model" \
    --predict_data "What is the capital of France?" "你好！" "Who are you?" --save_file "$out/answers.txt"
step "6/7 it calls a tool: a Python function, which runs"
for question in "What is the weather in Rome?" "北京天气怎么样？"; do
    printf '> %s\n' "$question"
    run python -m mindformers chat "$out/huggingface" --no_history --tools $data/weather.py <<< "$question"
done
step "7/7 how many questions of the data set it answers as the data does"
run python $data/check_answers.py --model "$out/huggingface" --data $data/alpaca_tiny.json

printf '\ndone in %s s. Loss curve: %s/finetune/loss.png. Model: %s/huggingface\n' "$(($(date +%s) - begin))" "$out" "$out"
if [ "$chat" = yes ]; then
    exec python -m mindformers chat "$out/huggingface" --no_history
fi
echo "talk to it: bash scripts/chat.sh $(shown "$out/huggingface")"
