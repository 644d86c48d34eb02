"""What sharing a finetune costs and saves on this machine: step time, memory, bytes sent, time to the first step.

    python benchmarks/bench_parallel.py [--sizes small] [--steps 6]

A GLM-4 of random weights is trained by the published command line as one process with all cores and as two that
share them (data, model, pipeline, shared optimizer), in turn in every round. One JSON line per layout: median
step time and its ratio to one process in the same round, peak memory of the largest process, seconds until
the first step is done, and bytes a process sent per step beside the textbook's count of a ring.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from finetune_runs import GROUPS, SIZES, finetune_once, settings_of, write_random_rows

TOKENS, ROWS = 128, 4
ONE = "one process"
LAYOUTS: dict[str, dict[str, Any]] = {
    ONE: {"runner_config.batch_size": ROWS},
    "data 2": {"parallel_config.data_parallel": 2, "runner_config.batch_size": ROWS // 2},
    "data 2, shared optimizer": {
        "parallel_config.data_parallel": 2, "runner_config.batch_size": ROWS // 2,
        "parallel.enable_parallel_optimizer": True,
    },
    "model 2": {"parallel_config.model_parallel": 2, "runner_config.batch_size": ROWS},
    "pipeline 2": {
        "parallel_config.pipeline_stage": 2, "parallel_config.micro_batch_num": ROWS,
        "runner_config.batch_size": 1,
    },
}  # fmt: skip


def parameters(size: dict[str, int]) -> tuple[int, int]:
    """Return the parameters of a layer, and of embedding and output layer together."""
    hidden, kv = size["hidden_size"], GROUPS * size["kv_channels"]
    query = size["num_attention_heads"] * size["kv_channels"]
    layer = 2 * hidden + (query + 2 * kv) * (hidden + 1) + hidden * query
    layer += 3 * hidden * size["ffn_hidden_size"]
    return layer, 2 * size["padded_vocab_size"] * hidden


def textbook(name: str, size: dict[str, int]) -> float:
    """Return the bytes a process of two sends in a step: gradients, activations or micro batches."""
    layer, ends = parameters(size)
    stream = ROWS * TOKENS * size["hidden_size"] * 4
    if name.startswith("data"):
        total = (size["num_layers"] * layer + ends + size["hidden_size"]) * 4
        return total * (1.5 if "optimizer" in name else 1.0)  # the gathered weights: half as much
    if name == "model 2":  # two sums forward and two backward a layer, one before the output layer
        return (4 * size["num_layers"] + 1) * stream
    return stream if name == "pipeline 2" else 0.0


def run(name: str, size: str, data: Path, folder: Path, steps: int) -> dict[str, float]:
    """Finetune once and return what came of it."""
    settings = {**settings_of(size, TOKENS, steps), **LAYOUTS[name]}
    found = finetune_once(settings, 1 if name == ONE else 2, data, folder)
    return {
        "seconds": found.seconds,
        "first_step": found.first_step,
        "peak_mb": max(share.peak for share in found.shares),
        "sent_mb": found.sent,
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["small"], choices=list(SIZES))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for label in arguments.sizes:
        size = SIZES[label]
        found: dict[str, list[dict[str, float]]] = {name: [] for name in LAYOUTS}
        with tempfile.TemporaryDirectory() as temp:
            data = write_random_rows(
                Path(temp) / "rows.mindrecord", ROWS * (arguments.steps + 1), TOKENS,
                size["padded_vocab_size"],
            )  # fmt: skip
            for index in range(arguments.rounds):
                for name, runs in found.items():
                    folder = Path(temp) / f"{index}_{name.replace(' ', '_')}"
                    folder.mkdir()
                    runs.append(run(name, label, data, folder, arguments.steps))
        for name, runs in found.items():
            ratios = [
                one["seconds"] / each["seconds"] for one, each in zip(found[ONE], runs, strict=True)
            ]
            line = {key: round(statistics.median(r[key] for r in runs), 3) for key in runs[0]}
            print(json.dumps({
                "size": label, "layout": name, **line, "speed_of_one": round(statistics.median(ratios), 2),
                "textbook_mb": round(textbook(name, size) / 1e6, 3),
            }), flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
