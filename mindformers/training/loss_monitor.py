"""``MFLossMonitor``: the two log lines per step that people's log parsers read."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import numpy as np

from mindformers.config.options import refuse_options
from mindformers.errors import ConfigError
from mindformers.logger import logger
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.callback import Callback
from mindformers.training.run import StepReport, TrainRun

# The run itself knows these; upstream's YAML files name some of them.
_NEUTRAL: dict[str, tuple[Any, ...]] = dict.fromkeys(
    (
        "learning_rate", "micro_batch_num", "micro_batch_interleave_num", "origin_epochs",
        "dataset_size", "initial_epoch", "initial_step", "global_batch_size",
        "gradient_accumulation_steps", "check_for_nan_in_loss_and_grad", "calculate_per_token_loss",
        "print_separate_loss",
    ),
    (),
)  # fmt: skip
_BAR_CELLS = 50


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class MFLossMonitor(Callback):
    """Log loss, time, learning rate and norm, and below it progress, speed and time left.

    Args:
        per_print_times: Log every so many steps, 1 or more.
        dataset_sink_mode: Upstream's two forms of the loss: True ``loss: x``, False
            ``loss:[x/mean]``.
        options: Upstream's other arguments; the run knows their values.

    Raises:
        ConfigError: If an argument is out of range or unknown.
    """

    def __init__(
        self, per_print_times: int = 1, dataset_sink_mode: bool = True, **options: Any
    ) -> None:
        refuse_options("MFLossMonitor", options, _NEUTRAL)
        if per_print_times < 1:
            raise ConfigError(f"is {per_print_times}", where="MFLossMonitor.per_print_times",
                              allowed="1 or more")  # fmt: skip
        self.per_print_times, self.dataset_sink_mode = per_print_times, dataset_sink_mode
        self._losses: list[float] = []  # of the epoch
        self._seconds: list[float] = []  # since the last lines

    def on_train_begin(self, run: TrainRun) -> None:
        """Forget an earlier run."""
        self._losses, self._seconds = [], []

    def on_step_end(self, run: TrainRun, report: StepReport) -> None:
        """Log the two lines when it is time for them."""
        self._losses.append(report.loss)
        self._seconds.append(report.seconds)
        is_last = report.global_step == report.total_steps
        if report.global_step % self.per_print_times == 0 or is_last:
            seconds = sum(self._seconds) / len(self._seconds)
            logger.info("%s", self.first_line(report, seconds))
            logger.info("%s", second_line(report, seconds))
            self._seconds = []
        if report.step_in_epoch == report.steps_per_epoch:
            self._losses = []

    def first_line(self, report: StepReport, seconds: float) -> str:
        """Return upstream's line; ``seconds`` is the time of one step."""
        if self.dataset_sink_mode:
            loss = f"loss: {report.loss:5.6f}, "
        else:
            finite = [value for value in self._losses if math.isfinite(value)]
            mean = sum(finite) / len(finite) if finite else math.nan
            loss = f"loss:[{report.loss:5.6f}/{mean:5.6f}], "
        norm = np.array([report.grad_norm], np.float32)
        return (
            f"{{ Epoch:[{report.epoch:3d}/{report.epochs:3d}], "
            f"step:[{report.step_in_epoch:5d}/{report.steps_per_epoch:5d}], {loss}"
            f"per_step_time: {int(seconds * 1000)}ms, lr: {np.float32(report.lr)!s}, "
            f"overflow cond: {report.overflow}, loss_scale: {report.loss_scale}, "
            f"global_norm: {norm}"
        )


def second_line(report: StepReport, seconds: float) -> str:
    """Return upstream's progress line; ``seconds`` is the time of one step."""
    percent = 100.0 * report.global_step / report.total_steps
    bar = "█" * int(percent / 100 * _BAR_CELLS)
    speed = report.num_samples / max(seconds, 1e-9)
    left = timedelta(seconds=int(report.eta_seconds))
    return f"  {percent:4.1f}% |{bar:<{_BAR_CELLS}}| {speed:.5f} samples/s/p  {left} }}"
