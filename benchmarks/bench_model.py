"""Tokens per second of training and of decoding, ours and (with --rival) transformers' in the same run.

    python benchmarks/bench_model.py --preset small --what decode --rounds 5
    python benchmarks/bench_model.py --preset tiny --what train --rival /path/to/python-with-transformers

Every round runs ours, then the rival, each in a process of its own; compare medians of one run only,
because a shared machine's speed drifts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from presets import EPS, PRESETS, median, report

HERE = Path(__file__).resolve().parent


def build(preset: str, seq_length: int):
    """Return our network of a preset, float32, and its settings."""
    from mindformers import ChatGLM2Config, ChatGLM2ForConditionalGeneration

    size = PRESETS[preset]
    config = ChatGLM2Config(
        num_layers=size["layers"],
        hidden_size=size["hidden"],
        num_attention_heads=size["heads"],
        multi_query_group_num=size["groups"],
        ffn_hidden_size=size["ffn"],
        padded_vocab_size=size["vocab"],
        kv_channels=size["hidden"] // size["heads"],
        layernorm_epsilon=EPS,
        seq_length=seq_length,
        param_init_type="float32",
        compute_dtype="float32",
        eos_token_id=[],
        num_blocks=1024,
    )
    return ChatGLM2ForConditionalGeneration(config)


def decode(preset: str, batch: int, mode: int) -> None:
    """Time 128 greedy tokens after a 64-token prompt."""
    from mindformers.parallel.runtime import start_runtime

    start_runtime(mode=mode, seed=1)
    network = build(preset, 512)
    prompts = [list(range(1, 65))] * batch
    network.generate(prompts, max_new_tokens=8)  # compiles the graph
    found = network.generate(prompts, max_new_tokens=128, return_dict_in_generate=True)
    report(
        who="mindformers",
        what="decode",
        preset=preset,
        batch=batch,
        mode=mode,
        tokens_per_second=round(127 * batch / found.decode_seconds, 2),
        first_token_ms=round(found.prefill_seconds * 1000, 1),
    )


def train(preset: str, batch: int, mode: int) -> None:
    """Time AdamW steps on batches of 512 tokens."""
    import numpy as np

    from mindformers import AdamW, MFTrainOneStepCell
    from mindformers.parallel.runtime import start_runtime
    from mindformers.training.param_groups import get_optimizer_grouped_parameters

    start_runtime(mode=mode, seed=1)
    network = build(preset, 512)
    step = MFTrainOneStepCell(
        network, AdamW(get_optimizer_grouped_parameters(network, 0.01)), use_clip_grad=True
    )
    ids = (
        np.random.default_rng(0)
        .integers(1, PRESETS[preset]["vocab"], (batch, 512))
        .astype(np.int32)
    )
    rows = {"input_ids": ids, "labels": ids}
    started = time.perf_counter()
    step([rows], 1e-4)
    first = time.perf_counter() - started
    speeds = []
    for _ in range(4):
        started = time.perf_counter()
        step([rows], 1e-4)
        speeds.append(ids.size / (time.perf_counter() - started))
    report(
        who="mindformers",
        what="train",
        preset=preset,
        batch=batch,
        mode=mode,
        tokens_per_second=median(speeds),
        first_step_s=round(first, 1),
    )


def one(python: str, script: str, arguments: argparse.Namespace) -> dict:
    """Run one measurement in a process of its own and return what it printed."""
    command = [
        python,
        str(HERE / script),
        "--once",
        "--preset",
        arguments.preset,
        "--what",
        arguments.what,
        "--batch",
        str(arguments.batch),
    ]
    if script == Path(__file__).name:
        command += ["--mode", str(arguments.mode)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Run the rounds and print a line each and the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--what", choices=("decode", "train"), default="decode")
    parser.add_argument("--batch", type=int, default=0, help="default: 1 to decode, 4 to train")
    parser.add_argument("--mode", type=int, choices=(0, 1), default=0, help="0 graph, 1 PyNative")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rival", help="a Python that has torch and transformers")
    parser.add_argument("--once", action="store_true", help="measure in this process, once")
    arguments = parser.parse_args()
    arguments.batch = arguments.batch or (1 if arguments.what == "decode" else 4)
    if arguments.once:
        (decode if arguments.what == "decode" else train)(
            arguments.preset, arguments.batch, arguments.mode
        )
        return
    speeds: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        runs = [one(sys.executable, Path(__file__).name, arguments)]
        if arguments.rival:
            runs.append(one(arguments.rival, "rival_transformers.py", arguments))
        for run in runs:
            print(json.dumps(run), flush=True)
            speeds.setdefault(run["who"], []).append(run["tokens_per_second"])
    print(
        json.dumps(
            {
                "what": arguments.what,
                "preset": arguments.preset,
                "batch": arguments.batch,
                "median_tokens_per_second": {who: median(values) for who, values in speeds.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
