"""The callbacks of a run: those its YAML names, and those every run has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mindformers.errors import ConfigError
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.callback import Callback
from mindformers.training.checkpoint_monitor import CheckpointMonitor
from mindformers.training.early_stopping import EarlyStopping
from mindformers.training.eval_callback import EvalCallBack
from mindformers.training.loss_monitor import MFLossMonitor
from mindformers.training.loss_plot import LossPlot
from mindformers.training.metrics import MetricsWriter
from mindformers.training.profile_monitor import ProfileMonitor
from mindformers.training.progress import ProgressBar
from mindformers.training.state_monitor import TrainingStateMonitor
from mindformers.training.summary_monitor import SummaryMonitor

__all__ = [
    "Callback",
    "CheckpointMonitor",
    "EarlyStopping",
    "EvalCallBack",
    "LossPlot",
    "MFLossMonitor",
    "MetricsWriter",
    "ProfileMonitor",
    "ProgressBar",
    "SummaryMonitor",
    "TrainingStateMonitor",
    "before_saving",
    "build_callbacks",
]


def build_callbacks(
    sections: Sequence[Mapping[str, Any]] | None,
    *,
    is_first: bool = True,
) -> list[Callback]:
    """Build the callbacks of a run in the order they are called.

    Args:
        sections: The YAML's ``callbacks``: each names its ``type``; null values are left out.
        is_first: This is the run's first process, which shows and records; the others have only what
            ``is_everywhere``.

    Returns:
        Progress bar, metrics and loss plot (unless the YAML names them itself), then the others;
        checkpoints come last, so that a step is in the metrics before it is saved.

    Raises:
        ConfigError: If a type is unknown or no callback of ours, or an argument is wrong.
    """
    named = [{k: v for k, v in section.items() if v is not None} for section in sections or ()]
    built = [_build(section) for section in named]
    types = {type(callback) for callback in built}
    every: list[Callback] = [
        cls() for cls in (ProgressBar, MetricsWriter, LossPlot) if cls not in types
    ]
    last = [callback for callback in built if isinstance(callback, CheckpointMonitor)]
    found = every + [callback for callback in built if callback not in last] + last
    return [callback for callback in found if is_first or callback.is_everywhere]


def before_saving(callbacks: Sequence[Callback], more: Sequence[Callback]) -> list[Callback]:
    """Return ``callbacks`` with others before those that save: a step is saved with what is known of it."""
    savers = [callback for callback in callbacks if isinstance(callback, CheckpointMonitor)]
    return [*(each for each in callbacks if each not in savers), *more, *savers]


def _build(section: Mapping[str, Any]) -> Callback:
    arguments = dict(section)
    name = str(arguments.pop("type", ""))
    callback_class = MindFormerRegister.get_cls(MindFormerModuleType.CALLBACK, name)
    try:
        callback = callback_class(**arguments)
    except TypeError as error:
        raise ConfigError(str(error), where=f"callbacks.{name}") from error
    if not isinstance(callback, Callback):
        raise ConfigError(
            f"{name} is no Callback", where="callbacks",
            fix="derive it from mindformers.training.callback.Callback",
        )  # fmt: skip
    return callback
