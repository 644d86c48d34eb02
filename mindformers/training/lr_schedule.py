"""Learning-rate schedules by name: importing this file registers them; a YAML section builds one.

Names, aliases and arguments are upstream's. A schedule is a function: count of finished steps
(0 for the first step) -> learning rate of the next step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from mindformers.errors import ConfigError, did_you_mean
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.lr_annealing import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LearningRateWiseLayer,
)
from mindformers.training.lr_base import SECTION, LearningRateSchedule
from mindformers.training.lr_warmup import (
    ConstantWarmUpLR,
    ConstantWithCoolDownLR,
    CosineWithRestartsAndWarmUpLR,
    CosineWithWarmUpLR,
    LinearWithWarmUpLR,
    PolynomialWithWarmUpLR,
    WarmUpStableDecayLR,
)

__all__ = [
    "ConstantWarmUpLR",
    "ConstantWithCoolDownLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CosineWithRestartsAndWarmUpLR",
    "CosineWithWarmUpLR",
    "LearningRateSchedule",
    "LearningRateWiseLayer",
    "LinearWithWarmUpLR",
    "PolynomialWithWarmUpLR",
    "Schedule",
    "WarmUpStableDecayLR",
    "build_schedule",
]

Schedule = Callable[[int], float]


def build_schedule(
    section: Mapping[str, Any] | None, total_steps: int, learning_rate: float | None = None
) -> Schedule:
    """Build the schedule of a run.

    Args:
        section: The YAML section ``lr_schedule``: ``type`` and its arguments (null counts as not
            given). None: ``learning_rate`` for the whole run.
        total_steps: Steps of the whole run; stands in where ``total_steps`` is -1 or not given.
        learning_rate: The optimizer's own rate; used when the section, or its rate, is missing.

    Raises:
        ConfigError: If the type is unknown or an argument is missing, unknown or out of range.
    """
    if not section:
        return ConstantWarmUpLR(_required_rate(learning_rate), warmup_steps=0)
    given = {key: value for key, value in section.items() if value is not None}
    if "type" not in given:
        raise ConfigError(
            "has no 'type'",
            where=SECTION,
            allowed=", ".join(MindFormerRegister.names(MindFormerModuleType.LR)),
        )
    schedule_class = MindFormerRegister.get_cls(MindFormerModuleType.LR, str(given.pop("type")))
    known = inspect.signature(schedule_class).parameters
    if "total_steps" in known and given.get("total_steps", -1) == -1:
        given["total_steps"] = total_steps
    if "learning_rate" in known and learning_rate is not None:
        given.setdefault("learning_rate", learning_rate)
    _check_names(schedule_class, given, known)
    schedule: Schedule = schedule_class(**given)
    return schedule


def _required_rate(learning_rate: float | None) -> float:
    if learning_rate is None:
        raise ConfigError(
            "neither lr_schedule nor optimizer.learning_rate is given", fix="give one of them"
        )
    return learning_rate


def _check_names(
    schedule_class: type, given: Mapping[str, Any], known: Mapping[str, inspect.Parameter]
) -> None:
    """Refuse arguments the schedule does not have, and the lack of those it needs."""
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{schedule_class.__name__} has no such argument",
                where=f"{SECTION}.{name}",
                allowed=", ".join(known),
                fix=did_you_mean(name, known),
            )
    for name, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and name not in given:
            raise ConfigError(
                f"{schedule_class.__name__} needs it",
                where=f"{SECTION}.{name}",
                fix="add it to the section",
            )
