"""Schedules without a warm-up: cosine annealing, with restarts or not, AdaFactor's own, and a scaled schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mindformers.training.lr_base import (
    LearningRateSchedule,
    fail,
    half_cosine,
    is_number,
    register_schedule,
    require_positive,
)


@register_schedule("cosine_annealing")
@dataclass
class CosineAnnealingLR(LearningRateSchedule):
    """A cosine between ``base_lr`` and ``eta_min``, down in ``t_max`` steps, then up, for ever."""

    base_lr: float
    t_max: int
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "base_lr", "t_max")

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step that follows ``step`` finished ones."""
        return self.eta_min + (self.base_lr - self.eta_min) * half_cosine(step / self.t_max, 0.5)


@register_schedule("cosine_annealing_warm_restarts")
@dataclass
class CosineAnnealingWarmRestarts(LearningRateSchedule):
    """Cosines from ``base_lr`` to ``eta_min``: ``t_0`` steps, each next ``t_mult`` times more."""

    base_lr: float
    t_0: int
    t_mult: int = 1
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "base_lr", "t_0", "t_mult")

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step that follows ``step`` finished ones."""
        length = self.t_0
        if self.t_mult == 1:
            step %= length
        while step >= length:
            step -= length
            length *= self.t_mult
        return self.eta_min + (self.base_lr - self.eta_min) * half_cosine(step / length, 0.5)


@dataclass(frozen=True)
class RelativeStepLR:
    """AdaFactor's own rate: 1 / sqrt(t) of step t, at most 0.01; with ``warmup_init`` at most t / 1,000,000.

    Source: "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", algorithm 5 and section 8.
    """

    warmup_init: bool = False

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step that follows ``step`` finished ones."""
        count = step + 1
        return min(1e-6 * count if self.warmup_init else 1e-2, count**-0.5)


@register_schedule()
class LearningRateWiseLayer:
    """Another schedule times a factor.

    Args:
        base_lr: The schedule.
        lr_scale: The factor, 0 or more.
    """

    def __init__(self, base_lr: Callable[[int], float], lr_scale: float):
        if not callable(base_lr):
            fail("base_lr", base_lr, "a schedule")
        if not (is_number(lr_scale) and lr_scale >= 0):
            fail("lr_scale", lr_scale, "a finite number, 0 or more")
        self.base_lr, self.lr_scale = base_lr, lr_scale

    def __repr__(self) -> str:
        return f"LearningRateWiseLayer({self.base_lr!r}, lr_scale={self.lr_scale!r})"

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step that follows ``step`` finished ones."""
        return self.lr_scale * self.base_lr(step)
