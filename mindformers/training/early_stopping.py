"""``EarlyStopping``: end a run whose evaluations get no better."""

from __future__ import annotations

from typing import Any, ClassVar

from mindformers.config.options import refuse_options
from mindformers.errors import ConfigError
from mindformers.logger import logger
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.best_value import BestValue, earlier_evaluations
from mindformers.training.callback import Callback
from mindformers.training.run import EvalReport, TrainRun

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "verbose": (),  # it always says why it ends a run
    "restore_best_weights": (False,),  # CheckpointMonitor.keep_best keeps them
}


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class EarlyStopping(Callback):
    """End the run after ``patience`` evaluations in a row that are not the best so far.

    Args:
        monitor: Result to look at: ``eval_loss``, or another of the evaluation's.
        min_delta: A better value is better by more than this.
        patience: Evaluations without a better value that end the run; 0 and 1: the first.
        mode: ``min``, ``max``, or ``auto``: losses and perplexities should fall, all else rise.
        baseline: Value that has to be bettered from the start; None: none.
        options: MindSpore's other arguments: ``verbose``, and ``restore_best_weights`` at False.

    Raises:
        ConfigError: If an argument is out of range or not implemented.
    """

    is_everywhere: ClassVar[bool] = True

    def __init__(
        self,
        monitor: str = "eval_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        **options: Any,
    ):
        refuse_options("EarlyStopping", options, _NEUTRAL)
        if patience < 0:
            raise ConfigError(f"is {patience}", where="EarlyStopping.patience", allowed="0 or more")
        self.patience, self.monitor = patience, monitor
        self._start = (monitor, mode, min_delta, baseline)
        self._begin()

    def _begin(self) -> None:
        monitor, mode, min_delta, baseline = self._start
        self.best = BestValue(
            monitor, mode, min_delta=abs(min_delta), where="EarlyStopping", value=baseline
        )
        self.waited = 0

    def on_train_begin(self, run: TrainRun) -> None:
        """Go through the evaluations before a resume again."""
        self._begin()
        for _, results in earlier_evaluations(run):
            self._look_at(results)

    def on_evaluation(self, run: TrainRun, report: EvalReport) -> None:
        """Count, and end the run when it is time."""
        self._look_at(report.results)
        if self.waited and self.waited >= self.patience:
            best = "any number" if self.best.value is None else f"{self.best.value:.6g}"
            run.stop_reason = (
                f"{self.monitor} was not better than {best} in {self.waited} evaluations"
            )
            logger.info("stopping early after step %d: %s", report.global_step, run.stop_reason)

    def _look_at(self, results: Any) -> None:
        self.waited = 0 if self.best.is_bettered(results) else self.waited + 1
