"""A finetuning of random weights by the published command line, as one process or several, and what came of it."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/glm4/finetune_glm4_tiny_cpu.yaml"
GROUPS = 2  # key/value heads
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"num_layers": 4, "hidden_size": 256, "ffn_hidden_size": 704, "num_attention_heads": 4,
             "kv_channels": 64, "padded_vocab_size": 4096},
    "small": {"num_layers": 8, "hidden_size": 512, "ffn_hidden_size": 1408, "num_attention_heads": 8,
              "kv_channels": 64, "padded_vocab_size": 16384},
    "medium": {"num_layers": 8, "hidden_size": 1024, "ffn_hidden_size": 2816, "num_attention_heads": 8,
               "kv_channels": 128, "padded_vocab_size": 16384},
    "large": {"num_layers": 12, "hidden_size": 1280, "ffn_hidden_size": 3520, "num_attention_heads": 10,
              "kv_channels": 128, "padded_vocab_size": 32768},
}  # fmt: skip


@dataclass(frozen=True)
class Share:
    """What a process said at its end, in MB of 10^6 bytes."""

    weights: float
    optimizer: float
    peak: float


@dataclass(frozen=True)
class Run:
    """What a finetuning left.

    Attributes:
        seconds: Median of a step, without the first.
        first_step: Seconds from the start of the command to the end of the first step.
        sent: MB the busiest process sent in a step.
        shares: Of every rank.
    """

    seconds: float
    first_step: float
    sent: float
    shares: list[Share]


def write_random_rows(path: Path, rows: int, tokens: int, vocab: int) -> Path:
    """Write rows of random ids, every token trained."""
    sys.path.insert(0, str(ROOT))
    from mindformers.dataset.mindrecord import mindrecord_writer

    ids = np.random.default_rng(1).integers(2, vocab, (rows, tokens))
    with mindrecord_writer(path, num_partitions=1) as writer:
        writer.write(ids.astype(np.int32), np.roll(ids, -1, 1).astype(np.int32))
    return path


def settings_of(size: str, tokens: int, steps: int, **changes: Any) -> dict[str, Any]:
    """Return the keys of a run; ``__`` stands for a dot in those that are given."""
    return {
        **{f"model.model_config.{key}": value for key, value in SIZES[size].items()},
        "model.model_config.multi_query_group_num": GROUPS, "model.model_config.seq_length": tokens,
        "model.model_config.eos_token_id": 1, "model.model_config.pad_token_id": 0,
        "runner_config.stop_step": steps, "runner_config.epochs": 1,
        "callbacks.1.save_checkpoint_steps": 1000, "callbacks.0.per_print_times": 1,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }  # fmt: skip


def finetune_once(
    settings: dict[str, Any], processes: int, data: Path, folder: Path, config: str = CONFIG
) -> Run:
    """Run it.

    Args:
        settings: Keys that differ from the file's.
        processes: 1 needs no launcher.
        data: MindRecord file, or conversations.
        folder: An empty one, for what is written.
        config: The YAML file.
    """
    output = folder / "output"
    line = ["run_mindformer.py", "--config", config, "--run_mode", "finetune", "--train_dataset",
            str(data), "--output_dir", str(output), "--mode", "1"]  # fmt: skip
    for key, value in settings.items():
        line += [f"--{key}", json.dumps(value) if isinstance(value, list) else str(value)]
    if processes == 1:
        command = [sys.executable, *line]
    else:
        text = " ".join([*line, "--use_parallel", "True"])
        command = ["bash", "scripts/msrun_launcher.sh", text, str(processes), "8118",
                   str(folder / "logs"), "True", "300"]  # fmt: skip
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    began = time.time()
    with (folder / "said.txt").open("wb") as said:
        code = subprocess.run(
            command, cwd=ROOT, stdout=said, stderr=said, env=environment
        ).returncode
    if code:
        sys.exit((folder / "said.txt").read_text(errors="replace")[-4000:])
    return _read(output, began)


def _read(output: Path, began: float) -> Run:
    metrics = output / "metrics.jsonl"
    records = [json.loads(each) for each in metrics.read_text().splitlines()]
    logs = "".join(
        p.read_text(errors="replace") for p in sorted((output / "log").rglob("info.log"))
    )
    said = r"rank (\d+): weights ([\d.]+) MB, optimizer ([\d.]+) MB, peak memory (\d+) MB"
    shares = {int(rank): Share(*map(float, rest)) for rank, *rest in re.findall(said, logs)}
    sent = [
        sum(float(each) for each in re.findall(r" (\d+\.\d+)(?:,|$)", rest))
        for rest in re.findall(r"sent per step \(MB\): (.*)", logs)
    ]
    later = [record["seconds"] for record in records[1:]]
    return Run(
        seconds=statistics.median(later),
        first_step=metrics.stat().st_mtime - sum(later) - began,
        sent=max(sent, default=0.0),
        shares=[share for _, share in sorted(shares.items())],
    )
