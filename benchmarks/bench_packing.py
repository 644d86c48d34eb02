"""Speed of training on packed rows beside filled-up ones: the same conversations, the same network.

    python benchmarks/bench_packing.py --vocab_file tokenizer.model --data_path alpaca_data.json

Every figure is a process of its own that trains a GLM-4 of a chosen size for some steps; all of them run in
turn in every round. Prints one JSON line per figure: tokens of conversations per second (median of the
rounds; filling does not count), the ratio to filled-up rows in the same round, the share of the rows that
conversations fill, the loss per label of the rows it saw, and peak memory. Without the two paths: the
reference files beside the checkout, or else the examples' own data and a vocabulary made of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from bench_preprocess import default_inputs
from figures import measure

from mindformers.machine import usable_cpus

PLAIN = "filled up to seq_length"
LEFT_OUT = ", filling left out"  # as the kernels of a CPU do; else it is computed, as in a graph and on an NPU
FORMS = {
    PLAIN: {},
    "filled up to the longest": {"dynamic_batch": True},
    "batches of like length": {"dynamic_batch": True, "group_by_length": True},
    "packed": {"packing": True},
    PLAIN + LEFT_OUT: {},
    "packed" + LEFT_OUT: {"packing": True},
}

_TRAIN = """
import json, resource, sys, time
import numpy as np
from mindformers.parallel.runtime import start_runtime
settings = json.loads(sys.argv[1])
start_runtime(device_target="CPU", mode=1, seed=1)
from mindformers.dataset.causal_lm import CausalLanguageModelDataset
from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.training.optimizer import AdamW
from mindformers.training.train_step import MFTrainOneStepCell
tokenizer = ChatGLM4Tokenizer(settings["vocab_file"])
section = {**settings["section"], "data_loader": {"dataset_dir": settings["data_path"], "shuffle": True}}
data = CausalLanguageModelDataset(section, seq_length=settings["seq_length"], tokenizer=tokenizer, seed=1)
special = tokenizer.special_tokens
network = ChatGLM2ForConditionalGeneration(ChatGLM2Config(
    **settings["network"], seq_length=settings["seq_length"],
    padded_vocab_size=-(-len(tokenizer) // 64) * 64, eos_token_id=[special["<|user|>"]],
    pad_token_id=tokenizer.pad_token_id, param_init_type="float32", compute_dtype="float32",
))
if not settings["leaves_filling_out"]:
    type(network).joins_rows = False
step = MFTrainOneStepCell(network, AdamW(network.trainable_params(), learning_rate=1e-4))
batches = data.batches(0)
step.step([next(batches)], 1e-4)  # memory is taken and kernels are loaded
seconds, tokens, room, loss, labels = 0.0, 0, 0, 0.0, 0
for _ in range(settings["steps"]):
    batch = next(batches)
    began = time.perf_counter()
    found = step.step([batch], 1e-4)
    seconds += time.perf_counter() - began
    tokens += int((batch["input_ids"] != tokenizer.pad_token_id).sum())
    room += batch["input_ids"].size
    loss += found.loss * found.num_trained_tokens
    labels += found.num_trained_tokens
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, tokens, room, loss / labels, peak]))
"""


def settings_of(figure: str, args: argparse.Namespace, cache: str) -> dict[str, object]:
    """Return what one figure's process is told."""
    heads = max(2, args.hidden // 64)
    return {
        "vocab_file": str(args.vocab_file),
        "data_path": str(args.data_path),
        "seq_length": args.seq_length,
        "steps": args.steps,
        "leaves_filling_out": figure.endswith(LEFT_OUT),
        "section": {**FORMS[figure], "batch_size": args.batch_size, "cache_dir": cache},
        "network": {
            "num_layers": args.layers,
            "hidden_size": args.hidden,
            "ffn_hidden_size": args.hidden * 10 // 3 // 8 * 8,
            "num_attention_heads": heads,
            "multi_query_group_num": 2,
            "kv_channels": args.hidden // heads,
        },
    }


def summary(figure: str, runs: dict[str, list[list[float]]]) -> dict[str, object]:
    """Return the line of one figure; a ratio is the median over the rounds of that round's ratio."""
    speeds = [tokens / seconds for seconds, tokens, *_ in runs[figure]]
    plain = [tokens / seconds for seconds, tokens, *_ in runs[PLAIN]]
    _, tokens, room, loss, peak = runs[figure][-1]
    return {
        "bench": "packing",
        "figure": figure,
        "tokens/s": round(statistics.median(speeds), 1),
        "min": round(min(speeds), 1),
        "max": round(max(speeds), 1),
        f"to {PLAIN}": round(
            statistics.median(own / other for own, other in zip(speeds, plain, strict=True)), 2
        ),
        "filled_%": round(100 * tokens / room, 1),
        "loss": round(loss, 4),
        "peak_rss_MB": round(peak * 1024 / 1e6),
    }


def main() -> None:
    """Print one JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab_file", type=Path, help="tokenizer.model")
    parser.add_argument("--data_path", type=Path, help="conversations: JSON, JSON Lines or Parquet")
    parser.add_argument("--seq_length", type=int, default=2048)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=512, help="a multiple of 64")
    parser.add_argument("--steps", type=int, default=5, help="of each process, after a first one")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if not (args.vocab_file and args.data_path):
            args.vocab_file, args.data_path = default_inputs(Path(name))
        commands = {
            figure: [sys.executable, "-c", _TRAIN, json.dumps(settings_of(figure, args, name))]
            for figure in FORMS
        }
        runs: dict[str, list[list[float]]] = {figure: [] for figure in commands}
        for _ in range(args.rounds):  # in turn, so that a slow minute hits all alike
            for figure, command in commands.items():
                runs[figure].append(measure(command))
    for figure in runs:
        about = {
            name: getattr(args, name) for name in ("seq_length", "batch_size", "layers", "hidden")
        }
        print(json.dumps({**summary(figure, runs), **about, "cores": usable_cpus()}), flush=True)


if __name__ == "__main__":
    main()
