"""``run_mindformer.py`` with a fault in rank 1: ``faulty_rank.py FAULT ARGUMENTS``."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mindformers.cli.run import main  # noqa: E402
from mindformers.guard import run_guarded  # noqa: E402

AT_STEP = 4  # of the fault; steps before it are saved every second one


def _in_a_save(act: Callable[[], None]) -> None:
    from mindformers.checkpoint import manifest

    write_files = manifest.write_files
    calls = [0]

    def faulty(temp: Path, writers: Any) -> Any:
        calls[0] += 1
        if calls[0] == AT_STEP // 2:
            act()
        return write_files(temp, writers)

    manifest.write_files = faulty


def _no_space() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _nan() -> None:
    import numpy as np

    from mindformers.training.train_step import MFTrainOneStepCell

    gradients = MFTrainOneStepCell.gradients

    def faulty(self: Any, batch: Any, weight: float = 1.0) -> Any:
        loss, grads = gradients(self, batch, weight)
        if self.optimizer.step == AT_STEP - 1:
            grads[3] = grads[3] * np.nan
        return loss, grads

    MFTrainOneStepCell.gradients = faulty


def _begin(fault: str, arguments: list[str]) -> list[str]:
    if fault == "settings":
        return [*arguments, "--seed", "7"]
    if fault == "data":
        index = arguments.index("--train_dataset")
        arguments[index + 1] = arguments[index + 1].replace("rows", "other_rows")
    elif fault == "no_space":
        _in_a_save(_no_space)
    elif fault == "killed_in_save":
        _in_a_save(lambda: os.kill(os.getpid(), signal.SIGKILL))
    elif fault == "nan":
        _nan()
    elif fault == "stopped":
        _in_a_save(lambda: os.kill(os.getpid(), signal.SIGSTOP))
    return arguments


if __name__ == "__main__":
    given = sys.argv[2:]
    if os.environ.get("RANK_ID") == "1":
        given = _begin(sys.argv[1], given)
    sys.exit(run_guarded(main, given))
