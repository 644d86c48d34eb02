"""Which evaluation was the best so far, by one of its values; a resumed run goes on where it stood."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mindformers.errors import ConfigError, did_you_mean
from mindformers.parallel.mesh import mesh
from mindformers.training.metrics import EVAL, METRICS_NAME, read_evaluations
from mindformers.training.run import TrainRun

MODES = ("auto", "min", "max")
_LOWER_IS_BETTER = ("loss", "perplexity", "PPL", "empty_answers", "tool_needless")


class BestValue:
    """The best value of a result so far.

    Args:
        monitor: Name of the result, with or without ``eval_``.
        mode: ``min``, ``max``, or ``auto``: what is better for results of this name.
        min_delta: A better value is better by more than this, 0 or more.
        where: What asks, for messages.
        value: What has to be bettered from the start; None: nothing.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self,
        monitor: str,
        mode: str = "auto",
        *,
        min_delta: float = 0.0,
        where: str = "",
        value: float | None = None,
    ):
        if mode not in MODES:
            raise ConfigError(f"is {mode!r}", where=f"{where}.mode", allowed=", ".join(MODES))
        if not 0 <= min_delta < math.inf:
            raise ConfigError(f"is {min_delta}", where=f"{where}.min_delta", allowed="0 or more")
        self.name, self.where = monitor.removeprefix(EVAL), where
        is_lower = mode == "min" or (mode == "auto" and self.name in _LOWER_IS_BETTER)
        self.sign, self.min_delta, self.value = -1.0 if is_lower else 1.0, min_delta, value

    def is_bettered(self, results: Mapping[str, float]) -> bool:
        """Take the results of an evaluation; tell whether they are the best so far.

        Raises:
            ConfigError: If there is no result of this name.
        """
        if self.name not in results:
            names = [f"{EVAL}{name}" for name in results]
            raise ConfigError(
                f"no result of the evaluation is called {EVAL}{self.name}", where=self.where,
                allowed=", ".join(names), fix=did_you_mean(f"{EVAL}{self.name}", names),
            )  # fmt: skip
        found = results[self.name]
        if math.isnan(found):
            return False
        if self.value is not None and self.sign * (found - self.value) <= self.min_delta:
            return False
        self.value = found
        return True


def earlier_evaluations(run: TrainRun) -> list[tuple[int, dict[str, float]]]:
    """Return (step, results) of the evaluations before the step a run is resumed from; as the first process knows.

    Args:
        run: The run as it begins.
    """
    done = run.state.global_step
    if not done:
        return []
    found = read_evaluations(run.output_dir / METRICS_NAME) if mesh().layout.rank == 0 else []
    every = mesh().world.gather_objects([each for each in found if each[0] <= done])
    return list(every[0])
