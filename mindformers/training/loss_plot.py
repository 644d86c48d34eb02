"""``LossPlot``: the loss curve as ``loss.png``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mindformers.checkpoint.atomic import atomic_file
from mindformers.errors import ConfigError
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.callback import Callback
from mindformers.training.extras import import_viz, viz_or_hint
from mindformers.training.metrics import METRICS_NAME, read_evaluations, read_metrics
from mindformers.training.run import EvalReport, StepReport, TrainRun

_INK, _RAW, _MEAN, _RATE, _EVAL = "#333333", "#9ecae1", "#08519c", "#e6550d", "#31a354"
Point = tuple[int, float, float]


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class LossPlot(Callback):
    """Draw loss and learning rate over the steps, every so often and at the end.

    Args:
        every: Draw every so many steps, 1 or more.
    """

    def __init__(self, every: int = 100):
        if every < 1:
            raise ConfigError(f"is {every}", where="LossPlot.every", allowed="1 or more")
        self.every = every
        self._points: list[Point] = []
        self._evaluated: list[tuple[int, float]] = []

    def on_train_begin(self, run: TrainRun) -> None:
        """Take over the points of the steps before a resume."""
        done = run.state.global_step
        rows = read_metrics(run.output_dir / METRICS_NAME) if done else []
        self._points = [
            (row["step"], row["loss"], row["lr"])
            for row in rows
            if row["step"] <= done and row.get("loss") is not None and row.get("lr") is not None
        ]
        path = run.output_dir / METRICS_NAME
        earlier = read_evaluations(path) if done else []
        self._evaluated = [
            (step, results["loss"])
            for step, results in earlier
            if step <= done and math.isfinite(results.get("loss", math.nan))
        ]

    def on_step_end(self, run: TrainRun, report: StepReport) -> None:
        """Note the step; draw when it is time."""
        if math.isfinite(report.loss):
            self._points.append((report.global_step, report.loss, report.lr))
        if report.global_step % self.every == 0:
            self._draw(run)

    def on_evaluation(self, run: TrainRun, report: EvalReport) -> None:
        """Note the loss."""
        loss = report.results.get("loss", math.nan)
        if math.isfinite(loss):
            self._evaluated.append((report.global_step, loss))

    def on_train_end(self, run: TrainRun) -> None:
        """Draw the whole curve."""
        self._draw(run)

    def on_exception(self, run: TrainRun, error: BaseException) -> None:
        """Draw what there is."""
        self._draw(run)

    def _draw(self, run: TrainRun) -> None:
        if self._points and viz_or_hint("matplotlib", "drawing loss.png"):
            plot_loss(self._points, run.output_dir / "loss.png", self._evaluated)


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Return a running mean of about ``window`` values without a start-up dip.

    An exponential mean whose weights are normalised by those seen so far.
    """
    keep = 1.0 - 2.0 / (window + 1.0)
    total = weight = 0.0
    out = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1.0
        out.append(total / weight)
    return out


def plot_loss(
    points: Sequence[Point], path: Path, evaluated: Sequence[tuple[int, float]] = ()
) -> Path:
    """Draw (step, loss, learning rate) points to a PNG file, whole or not at all.

    Args:
        points: Of training.
        path: The file.
        evaluated: (step, loss) of evaluations; drawn as dots.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure_class = import_viz("matplotlib.figure", "drawing loss.png").Figure
    steps, losses, rates = (list(column) for column in zip(*points, strict=True))
    figure = figure_class(figsize=(8, 5.5), dpi=120, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    window = max(5, len(points) // 25)
    marker = "o" if len(points) < 30 else ""
    top.plot(steps, losses, color=_RAW, linewidth=1, marker=marker, markersize=3, label="each step")
    top.plot(steps, smooth(losses, window), color=_MEAN, linewidth=2,
             label=f"smoothed over {window} steps")  # fmt: skip
    if evaluated:
        top.plot(*zip(*evaluated, strict=True), "o-", color=_EVAL, markersize=4, label="evaluation")
    top.set_ylabel("loss (nats per trained token)")
    top.set_title(f"Training loss: {losses[-1]:.4f} at step {steps[-1]}", loc="left", color=_INK)
    top.legend(frameon=False)
    bottom.plot(steps, rates, color=_RATE, linewidth=1.5)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    bottom.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    bottom.set_ylim(bottom=0, top=max(rates) * 1.1 or 1.0)
    bottom.xaxis.get_major_locator().set_params(integer=True)
    for axes in (top, bottom):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_INK)
    with atomic_file(path) as temp:
        figure.savefig(temp, format="png")
    return path
