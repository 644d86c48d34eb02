"""What a run left in its folder, read back for a report."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from mindformers.checkpoint.json_file import read_json
from mindformers.checkpoint.manifest import committed_steps
from mindformers.errors import ConfigError
from mindformers.machine import usable_cpus
from mindformers.training.best_step import BEST_FILE
from mindformers.training.metrics import METRICS_NAME, read_evaluations, read_metrics
from mindformers.training.step_folder import CONFIG_FILE
from mindformers.version import __version__

FACTS_FILE = "run.json"
_PACKAGES = ("mindspore", "numpy", "safetensors", "tiktoken")


@dataclass(frozen=True)
class RunRecord:
    """A run as its files tell it.

    Attributes:
        folder: The run's output folder.
        steps: A row of ``metrics.jsonl`` for each step.
        evaluations: (step, results by name).
        facts: Sections of ``run.json``: name -> rows of (what, value) or other JSON.
        config_text: The resolved settings.
        checkpoints: Names of the committed steps.
        best: Content of ``best.json``; empty: there is none.
    """

    folder: Path
    steps: list[dict[str, Any]]
    evaluations: list[tuple[int, dict[str, float]]]
    facts: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    checkpoints: list[str] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)

    def points(self, name: str) -> list[tuple[float, float]]:
        """Return (step, value) of a figure, where it is a number."""
        return [(row["step"], row[name]) for row in self.steps if row.get(name) is not None]

    def evaluated(self, name: str) -> list[tuple[float, float]]:
        """Return (step, value) of a result, where it is a number."""
        found = [(step, results.get(name)) for step, results in self.evaluations]
        return [(step, value) for step, value in found if value is not None and value == value]

    def summary(self) -> dict[str, str]:
        """Return the first things one asks of a run."""
        losses, rates = self.points("loss"), [v for _, v in self.points("tokens_per_second")]
        found = {"state": str(self.facts.get("state", "under way, or ended without a word"))}
        if self.steps:
            last = self.steps[-1]
            found["steps"] = f"{last['step']:,} in {last.get('epoch', '?')} epochs"
        if losses:
            found["loss"] = (
                f"{losses[0][1]:.4f} at step {losses[0][0]}, {losses[-1][1]:.4f} at step {losses[-1][0]}"
            )
        for step, results in self.evaluations[-1:]:
            values = ", ".join(
                f"{name} {value:.6g}" for name, value in results.items() if name != "seconds"
            )
            found["last evaluation"] = f"{values} (step {step})"
        if self.best:
            found["best step"] = (
                f"{self.best.get('step')}: {self.best.get('metric')} {self.best.get('value')}"
            )
        if self.steps:
            seen = sum(row.get("tokens", 0) for row in self.steps)
            trained = sum(row.get("trained_tokens", 0) for row in self.steps)
            found["tokens"] = (
                f"{seen:,}, of which {trained:,} trained ({trained / max(1, seen):.1%})"
            )
            found["time in steps"] = f"{sum(row.get('seconds', 0) for row in self.steps):,.1f} s"
        if rates:
            found["tokens per second"] = f"{median(rates):,.0f} (median of the steps)"
        return found


def read_run(folder: str | Path) -> RunRecord:
    """Return what a run left.

    Raises:
        ConfigError: If the folder is not that of a run.
        CheckpointError: If a file of it cannot be read.
    """
    folder = Path(folder)
    metrics = folder / METRICS_NAME
    if not metrics.is_file():
        raise ConfigError(
            f"there is no {METRICS_NAME}", where=str(folder),
            allowed="the output_dir of a finetuning run", fix="give the folder that holds it",
        )  # fmt: skip
    config, root = folder / CONFIG_FILE, folder / "checkpoint"
    return RunRecord(
        folder,
        [row for row in read_metrics(metrics) if "tokens" in row],
        read_evaluations(metrics),
        _json(folder / FACTS_FILE),
        config.read_text(encoding="utf-8") if config.is_file() else "",
        [path.name for path in committed_steps(root)],
        _json(root / BEST_FILE),
    )


def environment() -> dict[str, str]:
    """Return versions, machine and cores of this process."""
    found = {"mindformers": __version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return {
        **found,
        "system": platform.platform(),
        "cores this process may use": str(usable_cpus()),
        "command": " ".join(sys.argv),
    }


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
