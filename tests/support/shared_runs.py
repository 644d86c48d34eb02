"""The same finetune as one process and as several, by the published command line, for comparison."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindformers.checkpoint.loading import open_weights
from mindformers.cli.run import main
from mindformers.dataset.mindrecord import mindrecord_writer

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/glm4/finetune_glm4_9b.yaml")
SCRIPT = "run_mindformer.py"
LOSS, NORM, WEIGHT = 1e-5, 1e-5, 1e-4  # relative, relative, absolute
VOCAB, SEQ = 96, 16
NETWORK = {
    "num_layers": 4, "padded_vocab_size": VOCAB, "hidden_size": 32, "ffn_hidden_size": 48,
    "kv_channels": 8, "num_attention_heads": 4, "multi_query_group_num": 2, "seq_length": SEQ,
    "compute_dtype": "float32", "param_init_type": "float32", "eos_token_id": 1, "pad_token_id": 0,
    "offset": 0,
}  # fmt: skip
SERIAL = {"data_parallel": 1, "model_parallel": 1, "pipeline_stage": 1, "context_parallel": 1,
          "micro_batch_num": 1, "use_seq_parallel": False, "vocab_emb_dp": True}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a run left: the loss and norm of every step, the weights at the end, its folder."""

    losses: list[float]
    norms: list[float]
    weights: dict[str, np.ndarray]
    folder: Path


def write_rows(path: Path, count: int = 64) -> Path:
    """Write rows of random ids; each learns from another place on, and some are padded."""
    generator = np.random.default_rng(3)
    ids = generator.integers(2, VOCAB, (count, SEQ)).astype(np.int32)
    labels = np.roll(ids, -1, 1)
    labels[np.arange(SEQ) < generator.integers(1, SEQ - 5, (count, 1))] = -100
    padded = np.arange(SEQ) >= generator.integers(SEQ - 4, SEQ + 1, (count, 1))
    ids[padded], labels[padded] = 0, -100
    with mindrecord_writer(path, num_partitions=1) as writer:
        writer.write(ids, labels)
    return path


def write_start(folder: Path, **changes: Any) -> Path:
    """Write a Hugging Face-like directory of weights wide enough that training moves all of them."""
    import mindspore as ms
    from mindspore import Tensor

    from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
    from mindformers.models.glm2.glm2_config import ChatGLM2Config
    from mindformers.parallel.runtime import start_runtime

    start_runtime(device_target="CPU", mode=1)
    network = ChatGLM2ForConditionalGeneration(
        ChatGLM2Config(**{**NETWORK, "layernorm_epsilon": 1.5625e-07, **changes})
    )
    generator = np.random.default_rng(5)
    for parameter in network.weight_parameters().values():
        values = generator.normal(0, 0.1, parameter.shape) + (
            parameter.ndim == 1 and "norm" in parameter.name
        )
        parameter.set_data(Tensor(values.astype(np.float32)).astype(ms.float32))
    network.save_pretrained(folder)
    return folder


def arguments(data: Path, output: Path, steps: int, **settings: Any) -> list[str]:
    """Return the command line of a run, without the launcher.

    Args:
        data: MindRecord file.
        output: The run's folder.
        steps: Steps to do.
        **settings: Dotted keys with ``__`` for dots; ``parallel``: degrees that differ from one process;
            ``network``: sizes that differ from the usual ones; ``optimizer``: a section in place of the file's.
    """
    degrees = {**SERIAL, **settings.pop("parallel", {})}
    sizes = {**NETWORK, **settings.pop("network", {})}
    line = [SCRIPT, "--config", CONFIG, "--run_mode", "finetune",
            "--train_dataset", str(data), "--output_dir", str(output),
            "--device_target", "CPU", "--mode", "1"]  # fmt: skip
    values: dict[str, Any] = {
        "runner_config.epochs": 1,
        "runner_config.stop_step": steps,
        "lr_schedule.learning_rate": 1e-3,
        "lr_schedule.lr_end": 1e-3,
        "optimizer.eps": 1e-6,  # gradients that are 0 but for rounding would move weights by whole steps
        "recompute_config.recompute": False,
        "callbacks.1.checkpoint_format": "safetensors",
        **{f"parallel_config.{key}": value for key, value in degrees.items()},
        **{f"model.model_config.{key}": value for key, value in sizes.items()},
        **{key.replace("__", "."): value for key, value in settings.items() if key != "optimizer"},
    }
    if "optimizer" in settings:
        del values["optimizer.eps"]
        line += ["--optimizer", "null", "--optimizer", json.dumps(settings["optimizer"])]
    for key, value in values.items():
        line += (
            [f"--{key}", json.dumps(value)] if not isinstance(value, str) else [f"--{key}", value]
        )
    return line


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(line: list[str], processes: int, logs: Path, expect: int | None = 0) -> str:
    """Run a command line as so many processes; return what they said."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOG_v": "3"}
    if processes == 1:
        command = [sys.executable, *line]
    else:
        folder = Path(sys.executable).parent
        environment["PATH"] = f"{folder}:{environment['PATH']}"
        environment.setdefault("MINDFORMERS_THREADS", "1")
        quoted = " ".join(f"'{each}'" if " " in each or "[" in each else each for each in line)
        command = ["bash", "scripts/msrun_launcher.sh", quoted, str(processes), str(free_port()),
                   str(logs), "True", "300"]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=280,
    )  # fmt: skip
    said = done.stdout + done.stderr
    said += "".join(path.read_text(errors="replace") for path in sorted(logs.glob("worker_*.log")))
    if expect is not None:
        assert done.returncode == expect, said[-6000:]
    return said


def finetune(
    data: Path, output: Path, *, processes: int = 1, steps: int = 20, **settings: Any
) -> Outcome:
    """Finetune and return what came of it."""
    run(arguments(data, output, steps, **settings), processes, output / "msrun")
    return outcome(output)


def run(line: list[str], processes: int, logs: Path) -> None:
    """Run the command line of ``arguments``; one process is this one, where MindSpore is loaded."""
    if processes == 1:
        assert main([*line[1:], "--use_parallel", "False"]) == 0
    else:
        launch(line, processes, logs)


def outcome(output: Path) -> Outcome:
    """Read what a run left."""
    lines = (output / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(each) for each in lines]
    with open_weights(output / "checkpoint") as weights:
        arrays = {name: weights.read(name) for name in weights.tensors}
    return Outcome([r["loss"] for r in records], [r["grad_norm"] for r in records], arrays, output)


def largest_differences(one: Outcome, other: Outcome) -> tuple[float, float, float]:
    """Return the largest relative difference of a loss and of a norm, and the largest of a weight."""

    def relative(first: list[float], second: list[float]) -> float:
        return max(abs(a - b) / abs(a) for a, b in zip(first, second, strict=True))

    assert one.weights.keys() == other.weights.keys()
    weights = max(
        float(np.abs(value - other.weights[name]).max()) for name, value in one.weights.items()
    )
    return relative(one.losses, other.losses), relative(one.norms, other.norms), weights


def require_equal(whole: Outcome, shared: Outcome, steps: int = 20) -> None:
    """Fail unless a run of several processes went and ended as one of one process did."""
    loss, norm, weight = largest_differences(whole, shared)
    print(f"{shared.folder.name}: loss {loss:.1e}, norm {norm:.1e}, weights {weight:.1e}")
    assert len(shared.losses) == steps
    assert loss <= LOSS
    assert norm <= NORM
    assert weight <= WEIGHT
