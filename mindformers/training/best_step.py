"""``BestStep``: which step of a run had the best evaluation; ``best.json`` beside the steps names it."""

from __future__ import annotations

import math
from pathlib import Path

from mindformers.checkpoint.json_file import write_json
from mindformers.parallel.mesh import mesh
from mindformers.training.best_value import BestValue, earlier_evaluations
from mindformers.training.run import EvalReport, TrainRun
from mindformers.training.step_folder import folder_name

BEST_FILE = "best.json"


class BestStep:
    """The step whose evaluation was the best so far.

    Args:
        monitor: Name of the result.
        mode: ``auto``, ``min`` or ``max``, as for ``BestValue``.

    Attributes:
        spared: Names of the folders that must stay: the best, and until the next save the one before it.

    Raises:
        ConfigError: If the mode is none of these.
    """

    def __init__(self, monitor: str, mode: str = "auto"):
        self._start = (monitor, mode)
        self.best = BestValue(monitor, mode, where="CheckpointMonitor.keep_best")
        self.spared: tuple[str, ...] = ()

    def begin(self, run: TrainRun, root: Path) -> None:
        """Go through the evaluations before a resume again; a new run forgets those of an older one."""
        self.best = BestValue(*self._start, where="CheckpointMonitor.keep_best")
        self.spared = ()
        for step, results in earlier_evaluations(run):
            if self.best.is_bettered(results):
                self.spared = (folder_name(step),)
        if not self.spared and mesh().layout.rank == 0:
            (root / BEST_FILE).unlink(missing_ok=True)

    def is_bettered(self, report: EvalReport) -> bool:
        """Tell whether an evaluation is the best so far; its step is spared from now on."""
        if not self.best.is_bettered(report.results):
            return False
        # best.json names the step before until this one is committed.
        self.spared = (folder_name(report.global_step), *self.spared[:1])
        return True

    def write(self, root: Path, report: EvalReport) -> None:
        """Name the best step, which is committed by now, in ``best.json``."""
        self.spared = self.spared[:1]
        if mesh().layout.rank == 0:
            results = {
                name: value if math.isfinite(value) else None
                for name, value in report.results.items()
            }
            write_json(root / BEST_FILE, {
                "step": self.spared[0], "metric": f"eval_{self.best.name}", "value": self.best.value,
                "results": results,
            })  # fmt: skip
