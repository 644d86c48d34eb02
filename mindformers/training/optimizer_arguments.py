"""Checks of the numbers an optimizer is given."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mindformers.errors import ConfigError


def is_rate(value: object) -> bool:
    """Tell whether a value is a finite number, 0 or more."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def refuse(key: str, value: object, allowed: str) -> None:
    """Raise the error of one argument of an optimizer."""
    raise ConfigError(f"is {value!r}", where=f"optimizer.{key}", allowed=allowed)


def checked_part(key: str, value: float) -> float:
    """Return a number in [0, 1).

    Raises:
        ConfigError: If it is outside.
    """
    if not (is_rate(value) and value < 1):
        refuse(key, value, "a number in [0, 1)")
    return float(value)


def checked_betas(key: str, betas: Sequence[float]) -> tuple[float, float]:
    """Return two numbers in [0, 1).

    Raises:
        ConfigError: If they are others.
    """
    if len(betas) != 2 or not all(is_rate(beta) and beta < 1 for beta in betas):
        refuse(key, betas, "two numbers in [0, 1)")
    return float(betas[0]), float(betas[1])


def checked_positive(key: str, value: float) -> float:
    """Return a number above 0.

    Raises:
        ConfigError: If it is not.
    """
    if not (is_rate(value) and value > 0):
        refuse(key, value, "a number above 0")
    return float(value)
