"""``MetricsWriter``: one JSON line per step in ``metrics.jsonl``, and TensorBoard events."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, TextIO

from mindformers.checkpoint.atomic import write_text
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.callback import Callback
from mindformers.training.extras import viz_or_hint
from mindformers.training.run import EvalReport, StepReport, TrainRun

METRICS_NAME = "metrics.jsonl"
EVAL = "eval_"  # before the name of a value that an evaluation found


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class MetricsWriter(Callback):
    """Append each step to ``<output_dir>/metrics.jsonl`` and to ``<output_dir>/tensorboard``.

    A resumed run goes on in the same file: lines past the step it resumes from are dropped. A run
    that starts anew moves an older file to ``metrics.previous.jsonl``.

    Args:
        tensorboard: Write TensorBoard events too, when tensorboardX is installed.
    """

    def __init__(self, tensorboard: bool = True):
        self.tensorboard = tensorboard
        self._file: TextIO | None = None
        self._events: Any = None

    def on_train_begin(self, run: TrainRun) -> None:
        """Open the files."""
        path = run.output_dir / METRICS_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        if run.state.global_step:
            kept = [row for row in read_metrics(path) if row["step"] <= run.state.global_step]
            write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        elif path.exists():
            path.replace(path.with_name("metrics.previous.jsonl"))
        self._file = path.open("a", encoding="utf-8")
        if self.tensorboard:
            self._events = _open_events(run)

    def on_step_end(self, run: TrainRun, report: StepReport) -> None:
        """Write one line and flush it."""
        self._write(metrics_row(run, report))
        if self._events is not None:
            for name, value in scalars_of(report).items():
                self._events.add_scalar(name, value, report.global_step)

    def on_evaluation(self, run: TrainRun, report: EvalReport) -> None:
        """Write one line, the names with ``eval_`` before them."""
        self._write(evaluation_row(report))
        if self._events is not None:
            for name, value in report.results.items():
                self._events.add_scalar(f"eval/{name}", value, report.global_step)

    def on_train_end(self, run: TrainRun) -> None:
        """Close the files."""
        self._close()

    def on_exception(self, run: TrainRun, error: BaseException) -> None:
        """Close the files."""
        self._close()

    def _write(self, row: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def _close(self) -> None:
        for handle in (self._file, self._events):
            if handle is not None:
                handle.close()
        self._file = self._events = None


def metrics_row(run: TrainRun, report: StepReport) -> dict[str, Any]:
    """Return the JSON values of a step; a number that is not finite is None."""
    row = {
        "step": report.global_step,
        "epoch": report.epoch,
        "loss": report.loss,
        "lr": report.lr,
        "grad_norm": report.grad_norm,
        "skipped": report.overflow or report.is_spike,
        "tokens": report.num_tokens,
        "trained_tokens": report.num_trained_tokens,
        "total_tokens": run.state.consumed_tokens,
        "seconds": round(report.seconds, 6),
        "tokens_per_second": round(report.tokens_per_second, 3),
        "time": _now(),
    }
    return _finite(row)


def evaluation_row(report: EvalReport) -> dict[str, Any]:
    """Return the JSON values of an evaluation; a number that is not finite is None."""
    results = {f"{EVAL}{name}": value for name, value in report.results.items()}
    position = {"step": report.global_step, "epoch": report.epoch}
    return _finite(
        {**position, **results, f"{EVAL}seconds": round(report.seconds, 6), "time": _now()}
    )


def read_evaluations(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Return (step, results by name) of the evaluations a metrics file holds, in order."""
    found = []
    for row in read_metrics(path):
        results = {
            name.removeprefix(EVAL): math.nan if value is None else value
            for name, value in row.items()
            if name.startswith(EVAL)
        }
        if results:
            found.append((row["step"], results))
    return found


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file; a line a killed process left half is passed over."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def _open_events(run: TrainRun) -> Any:
    """Return an event writer, or None when tensorboardX is not installed."""
    module = viz_or_hint("tensorboardX", "writing TensorBoard events")
    if module is None:
        return None
    return module.SummaryWriter(
        logdir=str(run.output_dir / "tensorboard"), purge_step=run.state.global_step + 1
    )


def scalars_of(report: StepReport) -> dict[str, float]:
    """Return upstream's scalar names."""
    return {
        "loss": report.loss,
        "learning-rate": report.lr,
        "grad-norm": report.grad_norm,
        "loss-scale": report.loss_scale,
        "batch-size": report.num_samples,
        "iteration-time": report.seconds,
        "throughput": report.tokens_per_second,
    }
