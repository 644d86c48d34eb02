"""``EvalCallBack``: evaluate between two steps, without changing what follows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import ClassVar

from mindformers.errors import ConfigError
from mindformers.logger import logger
from mindformers.parallel.mesh import mesh
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.callback import Callback
from mindformers.training.run import EvalReport, StepReport, TrainRun
from mindformers.training.state import undisturbed


class EvaluationLeft(Exception):  # noqa: N818 -- no error: the run goes on to its end
    """An evaluation is left before its end."""


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class EvalCallBack(Callback):
    """Evaluate every so many steps or epochs and after the last step, and tell all callbacks.

    Args:
        eval_func: Returns the results by name, the same ones in every process. It may call ``go_on``
            between its parts.
        step_interval: Steps between two evaluations, 1 or more; -1: none by steps.
        epoch_interval: Epochs between two evaluations, 1 or more; -1: none by epochs.

    Raises:
        ConfigError: If an interval is something else.
    """

    is_everywhere: ClassVar[bool] = True

    def __init__(
        self,
        eval_func: Callable[[], Mapping[str, float]],
        step_interval: int = 100,
        epoch_interval: int = -1,
    ):
        for name, value in (("step_interval", step_interval), ("epoch_interval", epoch_interval)):
            if value < 1 and value != -1:
                raise ConfigError(
                    f"is {value}", where=f"EvalCallBack.{name}", allowed="1 or more, or -1 (off)"
                )
        self.eval_func = eval_func
        self.step_interval, self.epoch_interval = step_interval, epoch_interval
        self._evaluated = 0  # step
        self._run: TrainRun | None = None

    def on_train_begin(self, run: TrainRun) -> None:
        """Take the weights a run begins with for evaluated."""
        self._run, self._evaluated = run, run.state.global_step

    def on_step_end(self, run: TrainRun, report: StepReport) -> None:
        """Evaluate when it is time by steps, or by epochs."""
        by_steps = self.step_interval > 0 and report.global_step % self.step_interval == 0
        is_epoch_end = report.step_in_epoch == report.steps_per_epoch
        by_epochs = self.epoch_interval > 0 and report.epoch % self.epoch_interval == 0
        if by_steps or (by_epochs and is_epoch_end):
            self._evaluate(run)

    def on_train_end(self, run: TrainRun) -> None:
        """Evaluate the last step, unless a signal asks for a quick end."""
        if run.stop_signal is None and run.state.global_step != self._evaluated:
            self._evaluate(run)

    def go_on(self, count: int = 0) -> None:
        """Leave the evaluation under way when a signal asks for the end of the run, so that it can save in time.

        Of several processes none leaves: the others would wait for it.

        Raises:
            EvaluationLeft: If there is such a signal.
        """
        del count  # rows that are done, where it serves as ``on_rows``
        if mesh().layout.is_single and self._run is not None and self._run.is_asked_to_stop():
            raise EvaluationLeft

    def _evaluate(self, run: TrainRun) -> None:
        began = time.monotonic()
        try:
            with undisturbed():
                results = self.eval_func()
        except EvaluationLeft:
            logger.info(
                "the evaluation after step %d is left: the run has to end", run.state.global_step
            )
            return
        self._evaluated = run.state.global_step
        report = EvalReport(
            run.state.global_step, run.state.epoch, results, time.monotonic() - began
        )
        values = " | ".join(f"eval_{name} {value:.6g}" for name, value in results.items())
        logger.info(
            "evaluation after step %d: %s | %.1f s", report.global_step, values, report.seconds
        )
        run.announce(report)
