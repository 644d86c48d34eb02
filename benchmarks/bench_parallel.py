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
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/glm4/finetune_glm4_tiny_cpu.yaml"
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"num_layers": 4, "hidden_size": 256, "ffn_hidden_size": 704, "num_attention_heads": 4,
             "kv_channels": 64, "padded_vocab_size": 4096},
    "small": {"num_layers": 8, "hidden_size": 512, "ffn_hidden_size": 1408, "num_attention_heads": 8,
              "kv_channels": 64, "padded_vocab_size": 16384},
}  # fmt: skip
GROUPS, TOKENS, ROWS = 2, 128, 4
ONE = "one process"
LAYOUTS: dict[str, dict[str, Any]] = {
    ONE: {},
    "data 2": {"parallel_config.data_parallel": 2, "runner_config.batch_size": ROWS // 2},
    "data 2, shared optimizer": {
        "parallel_config.data_parallel": 2, "runner_config.batch_size": ROWS // 2,
        "parallel.enable_parallel_optimizer": True,
    },
    "model 2": {"parallel_config.model_parallel": 2},
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


def run(name: str, size: dict[str, int], data: Path, folder: Path, steps: int) -> dict[str, float]:
    """Finetune once and return what came of it."""
    output = folder / "output"
    keys: dict[str, Any] = {
        **{f"model.model_config.{key}": value for key, value in size.items()},
        "model.model_config.multi_query_group_num": GROUPS, "model.model_config.seq_length": TOKENS,
        "model.model_config.eos_token_id": 1, "model.model_config.pad_token_id": 0,
        "runner_config.batch_size": ROWS, "runner_config.stop_step": steps, "runner_config.epochs": 1,
        "callbacks.1.save_checkpoint_steps": 1000, "callbacks.0.per_print_times": 1,
        **LAYOUTS[name],
    }  # fmt: skip
    line = ["run_mindformer.py", "--config", CONFIG, "--run_mode", "finetune", "--train_dataset",
            str(data), "--output_dir", str(output), "--mode", "1"]  # fmt: skip
    for key, value in keys.items():
        line += [f"--{key}", str(value)]
    if name == ONE:
        command = [sys.executable, *line]
    else:
        text = " ".join([*line, "--use_parallel", "True"])
        command = ["bash", "scripts/msrun_launcher.sh", text, "2", "8118", str(folder / "logs"),
                   "True", "300"]  # fmt: skip
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    began = time.time()
    with (folder / "said.txt").open("wb") as said:
        subprocess.run(
            command,
            cwd=ROOT,
            check=True,
            stdout=said,
            stderr=said,
            env={**os.environ, "PATH": path},
        )
    records = [json.loads(each) for each in (output / "metrics.jsonl").read_text().splitlines()]
    logs = "".join(p.read_text(errors="replace") for p in (output / "log").rglob("info.log"))
    peaks = [float(each) for each in re.findall(r"peak memory (\d+) MB", logs)]
    sent = [
        sum(float(each) for each in re.findall(r" (\d+\.\d+)(?:,|$)", rest))
        for rest in re.findall(r"sent per step \(MB\): (.*)", logs)
    ]
    first = (output / "metrics.jsonl").stat().st_mtime - sum(r["seconds"] for r in records[1:])
    return {
        "seconds": statistics.median(record["seconds"] for record in records[1:]),
        "first_step": first - began,
        "peak_mb": max(peaks, default=0.0),
        "sent_mb": max(sent, default=0.0),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["small"], choices=list(SIZES))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from mindformers.dataset.mindrecord import mindrecord_writer

    for label in arguments.sizes:
        size = SIZES[label]
        found: dict[str, list[dict[str, float]]] = {name: [] for name in LAYOUTS}
        with tempfile.TemporaryDirectory() as temp:
            data = Path(temp) / "rows.mindrecord"
            ids = np.random.default_rng(1).integers(
                2, size["padded_vocab_size"], (ROWS * (arguments.steps + 1), TOKENS)
            )
            with mindrecord_writer(data, num_partitions=1) as writer:
                writer.write(ids.astype(np.int32), np.roll(ids, -1, 1).astype(np.int32))
            for index in range(arguments.rounds):
                for name, runs in found.items():
                    folder = Path(temp) / f"{index}_{name.replace(' ', '_')}"
                    folder.mkdir()
                    runs.append(run(name, size, data, folder, arguments.steps))
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
