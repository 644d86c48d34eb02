"""What a callback is, and how a list of them is called."""

from __future__ import annotations

from collections.abc import Sequence

from mindformers.errors import MindFormersError
from mindformers.logger import logger
from mindformers.training.run import StepReport, TrainRun


class Callback:
    """Something that happens beside the steps of a run; override what you need.

    A callback reads the run and changes none of it. An error it raises ends the run.

    Attributes:
        for_every_process: Of a run of several processes, each calls it; else only the first.
    """

    for_every_process = False

    def on_train_begin(self, run: TrainRun) -> None:
        """Be called before the first step, after a resume."""

    def on_step_end(self, run: TrainRun, report: StepReport) -> None:
        """Be called after every step."""

    def on_epoch_end(self, run: TrainRun) -> None:
        """Be called after the last step of an epoch."""

    def on_train_end(self, run: TrainRun) -> None:
        """Be called after the last step, also when a signal ended the run early."""

    def on_exception(self, run: TrainRun, error: BaseException) -> None:
        """Be called instead of ``on_train_end`` when an error ends the run."""


class CallbackList(Callback):
    """Callbacks as one; each event reaches them in order, the end in reverse order."""

    def __init__(self, callbacks: Sequence[Callback]):
        self.callbacks = list(callbacks)

    def on_train_begin(self, run: TrainRun) -> None:
        """Pass the event on."""
        for callback in self.callbacks:
            callback.on_train_begin(run)

    def on_step_end(self, run: TrainRun, report: StepReport) -> None:
        """Pass the event on."""
        for callback in self.callbacks:
            callback.on_step_end(run, report)

    def on_epoch_end(self, run: TrainRun) -> None:
        """Pass the event on."""
        for callback in self.callbacks:
            callback.on_epoch_end(run)

    def on_train_end(self, run: TrainRun) -> None:
        """Pass the event on, last callback first, so that a display outlives what logs into it."""
        for callback in reversed(self.callbacks):
            callback.on_train_end(run)

    def on_exception(self, run: TrainRun, error: BaseException) -> None:
        """Pass the event on, last callback first; what fails now must not hide ``error``."""
        for callback in reversed(self.callbacks):
            try:
                callback.on_exception(run, error)
            except (MindFormersError, OSError) as second:
                logger.error("%s after the error: %s", type(callback).__name__, second)
