"""``ProgressBar``: a bar with loss, learning rate, speed and time left, on a terminal only."""

from __future__ import annotations

import logging
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from mindformers.logger import logger, setup_console_logging
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.callback import Callback
from mindformers.training.run import StepReport, TrainRun


class _AboveTheBar(logging.Handler):
    """Print log lines through the bar's console, so that neither garbles the other."""

    def __init__(self, console: Console, formatter: logging.Formatter | None):
        super().__init__()
        self.console = console
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        text = self.format(record)
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class ProgressBar(Callback):
    """Show the run's progress; without a terminal nothing is written.

    Args:
        console: Where to draw; None: standard error.
    """

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._former: list[logging.Handler] = []

    def on_train_begin(self, run: TrainRun) -> None:
        """Draw the bar and let log lines pass above it."""
        if not self.console.is_terminal or self.console.is_dumb_terminal:
            return
        self._former = [h for h in logger.handlers if getattr(h, "is_console", False)]
        formatter = self._former[0].formatter if self._former else None
        if self._former:
            setup_console_logging(logger.level, _AboveTheBar(self.console, formatter))
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"), console=self.console,
        )  # fmt: skip
        self._task = self._progress.add_task(
            "", total=run.total_steps, completed=run.state.global_step, epoch="-", numbers=""
        )
        self._progress.start()
        self.console.show_cursor(True)  # a process killed by a second Ctrl-C could not restore it

    def on_step_end(self, run: TrainRun, report: StepReport) -> None:
        """Move the bar."""
        if self._progress is not None:
            self._progress.update(
                self._task, completed=report.global_step,
                epoch=f"{report.epoch}/{report.epochs}", numbers=numbers_text(report),
            )  # fmt: skip

    def on_train_end(self, run: TrainRun) -> None:
        """Leave the bar where it is and give the log its handler back."""
        self._stop()

    def on_exception(self, run: TrainRun, error: BaseException) -> None:
        """Leave the bar where it is and give the log its handler back."""
        self._stop()

    def _stop(self) -> None:
        if self._progress is None:
            return
        self._progress.stop()
        self._progress = None
        for handler in self._former:
            setup_console_logging(logger.level, handler)
        self._former = []


def numbers_text(report: StepReport) -> str:
    """Return ``loss 1.8342 | lr 9.8e-07 | 2339 tokens/s | 0:12:03 left``."""
    left = timedelta(seconds=int(report.eta_seconds))
    return (
        f"loss {report.loss:.4f} | lr {report.lr:.3g} | "
        f"{report.tokens_per_second:.0f} tokens/s | {left} left"
    )
