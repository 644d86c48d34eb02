"""What every learning-rate schedule has in common: checked arguments, and the pieces of the curves.

A schedule is called with the count of finished steps (0 for the first step) and returns the rate of
the next one. A ratio of ``total_steps`` wins over a number of steps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

from mindformers.errors import ConfigError
from mindformers.registry import MindFormerModuleType, MindFormerRegister

SECTION = "lr_schedule"


def register_schedule(alias: str | None = None) -> Any:
    """Return a decorator that registers a schedule under its class name and ``alias``."""

    def decorate(cls: type) -> type:
        MindFormerRegister.register_cls(cls, MindFormerModuleType.LR)
        if alias:
            MindFormerRegister.register_cls(cls, MindFormerModuleType.LR, alias)
        return cls

    return decorate


def fail(key: str, value: object, allowed: str, fix: str = "") -> None:
    """Raise the error of one argument of the schedule."""
    raise ConfigError(f"is {value!r}", where=f"{SECTION}.{key}", allowed=allowed, fix=fix)


def is_number(value: object, *, whole: bool = False) -> bool:
    """Tell whether a value is a finite number, or a whole one; True and False are none."""
    kinds = (int,) if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


@dataclass
class LearningRateSchedule(ABC):
    """A function of the step whose arguments are checked when it is built."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not field.init:
                continue
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            if field.name.endswith("_ratio"):
                if not (is_number(value) and 0 <= value <= 1):
                    fail(field.name, value, "a number from 0 to 1")
            elif field.name.endswith("_steps") or field.name in ("t_max", "t_0", "t_mult"):
                if not (is_number(value, whole=True) and value >= 0):
                    fail(field.name, value, "a whole number of steps, 0 or more")
            elif not (is_number(value) and value >= 0):
                fail(field.name, value, "a finite number, 0 or more")

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return the learning rate of the step that follows ``step`` finished ones."""

    def _steps(self, kind: str, default: int) -> int:
        """Return ``<kind>_ratio`` of all steps, else ``<kind>_steps``, else ``default``."""
        ratio = getattr(self, f"{kind}_ratio", None)
        if ratio is not None:
            return int(self._total(f"{kind}_ratio") * ratio)
        steps = getattr(self, f"{kind}_steps")
        return default if steps is None else steps

    def _total(self, needed_by: str) -> int:
        """Return ``total_steps``; ``needed_by`` is the key that cannot do without it."""
        total = getattr(self, "total_steps", None)
        if total is None:
            raise ConfigError(
                "is not given",
                where=f"{SECTION}.total_steps",
                fix=f"{needed_by} needs it: give a number of steps, or -1 for the whole run",
            )
        return int(total)


def half_cosine(progress: float, num_cycles: float) -> float:
    """Return a cosine that falls from 1; with half a cycle it reaches 0 at ``progress`` 1."""
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * num_cycles * 2.0 * progress)))


def require_descent(schedule: Any) -> None:
    """Refuse a decay that would not go down.

    Raises:
        ConfigError: If ``lr_end`` is not below ``learning_rate``.
    """
    if not schedule.lr_end < schedule.learning_rate:
        fail("lr_end", schedule.lr_end, f"less than learning_rate ({schedule.learning_rate})")


def require_positive(schedule: Any, *names: str) -> None:
    """Refuse a zero where a length or a rate must be above it.

    Raises:
        ConfigError: If an attribute named is not above 0.
    """
    for name in names:
        if not getattr(schedule, name) > 0:
            fail(name, getattr(schedule, name), "more than 0")
