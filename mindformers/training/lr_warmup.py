"""Schedules with a linear warm-up: constant, linear, cosine, polynomial and staged ones."""

from __future__ import annotations

from dataclasses import dataclass

from mindformers.training.lr_base import (
    LearningRateSchedule,
    fail,
    half_cosine,
    register_schedule,
    require_descent,
)


class _WarmUpSchedule(LearningRateSchedule):
    """A schedule that begins with a line from ``warmup_lr_init`` to ``learning_rate``."""

    learning_rate: float
    warmup_lr_init: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ramp = self._steps("warmup", 0)  # length of the line

    def _rise(self, step: int) -> float:
        start = float(self.warmup_lr_init)
        return start + (self.learning_rate - start) * step / self.ramp


@register_schedule("constant_with_warmup")
@dataclass
class ConstantWarmUpLR(_WarmUpSchedule):
    """A linear warm-up, then ``learning_rate`` for good."""

    learning_rate: float
    warmup_steps: int | None = None
    warmup_lr_init: float = 0.0
    warmup_ratio: float | None = None
    total_steps: int | None = None

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step that follows ``step`` finished ones."""
        return self._rise(step) if step < self.ramp else float(self.learning_rate)


@register_schedule("linear")
@dataclass
class LinearWithWarmUpLR(_WarmUpSchedule):
    """A linear warm-up, then a straight line to 0 at ``total_steps``."""

    learning_rate: float
    total_steps: int
    warmup_steps: int | None = None
    warmup_lr_init: float = 0.0
    warmup_ratio: float | None = None

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step that follows ``step`` finished ones."""
        if step < self.ramp:
            return self._rise(step)
        left = (self.total_steps - step) / max(1, self.total_steps - self.ramp)
        return self.learning_rate * max(0.0, left)


@register_schedule("cosine")
@dataclass
class CosineWithWarmUpLR(_WarmUpSchedule):
    """A linear warm-up, then a cosine that reaches ``lr_end`` and stays there.

    The cosine ends at ``decay_steps`` (counted from the first step of the run, warm-up included),
    or at ``total_steps`` when that is not given.
    """

    learning_rate: float
    warmup_steps: int = 0
    total_steps: int | None = None
    num_cycles: float = 0.5
    lr_end: float = 0.0
    warmup_lr_init: float = 0.0
    warmup_ratio: float | None = None
    decay_steps: int | None = None
    decay_ratio: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.decay_steps is not None or self.decay_ratio is not None
        self.end = max(1, self._steps("decay", 0) if given else self._total("the cosine"))

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step that follows ``step`` finished ones."""
        if step >= self.end:
            return float(self.lr_end)
        if step < self.ramp:
            return self._rise(step)
        progress = (step - self.ramp) / max(1, self.end - self.ramp)
        return self.lr_end + (self.learning_rate - self.lr_end) * half_cosine(
            progress, self.num_cycles
        )


@register_schedule("cosine_with_restarts")
@dataclass
class CosineWithRestartsAndWarmUpLR(_WarmUpSchedule):
    """A linear warm-up, then ``num_cycles`` cosines down to ``lr_end``, which stays."""

    learning_rate: float
    warmup_steps: int | None = None
    total_steps: int | None = None
    num_cycles: float = 1.0
    lr_end: float = 0.0
    warmup_lr_init: float = 0.0
    warmup_ratio: float | None = None
    decay_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.end = max(
            1, self._total("the cosine") if self.decay_steps is None else self.decay_steps
        )

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step that follows ``step`` finished ones."""
        if step >= self.end:
            return float(self.lr_end)
        if step < self.ramp:
            return self._rise(step)
        progress = (step - self.ramp) / max(1, self.end - self.ramp)
        wave = half_cosine((self.num_cycles * progress) % 1.0, 0.5)
        return self.lr_end + (self.learning_rate - self.lr_end) * wave


@register_schedule("polynomial")
@dataclass
class PolynomialWithWarmUpLR(_WarmUpSchedule):
    """A linear warm-up, then a polynomial that reaches ``lr_end`` after ``decay_steps`` more steps.

    ``decay_steps`` defaults to the steps left after the warm-up.
    """

    learning_rate: float
    total_steps: int
    warmup_steps: int | None = None
    lr_end: float = 1e-7
    power: float = 1.0
    warmup_lr_init: float = 0.0
    warmup_ratio: float | None = None
    decay_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_descent(self)
        self.length = max(1, self._steps("decay", self.total_steps - self.ramp))

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step that follows ``step`` finished ones."""
        if step < self.ramp:
            return self._rise(step)
        left = 1.0 - (step - self.ramp) / self.length
        if left <= 0.0:
            return float(self.lr_end)
        return float((self.learning_rate - self.lr_end) * left**self.power + self.lr_end)


@register_schedule()
@dataclass
class WarmUpStableDecayLR(_WarmUpSchedule):
    """A linear warm-up, a constant stretch, then a straight line to ``lr_end`` at ``total_steps``.

    The line starts at ``decay_start_steps`` or ``decay_start_ratio`` of all steps; without either
    the rate stays at ``learning_rate``.
    """

    learning_rate: float
    lr_end: float = 1e-7
    warmup_steps: int | None = None
    warmup_lr_init: float = 0.0
    warmup_ratio: float | None = None
    total_steps: int | None = None
    decay_start_steps: int | None = None
    decay_start_ratio: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_descent(self)
        self.start, self.length = None, 1
        if self.decay_start_steps is not None or self.decay_start_ratio is not None:
            self.start = self._steps("decay_start", 0)
            self.length = max(1, self._total("the decay") - self.start)
            if self.start < self.ramp:
                before = f"not before the end of the warm-up ({self.ramp} steps)"
                fail("decay_start_steps", self.start, before)

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step that follows ``step`` finished ones."""
        if step < self.ramp:
            return self._rise(step)
        if self.start is None:
            return float(self.learning_rate)
        fallen = min(1.0, max(0, step - self.start) / self.length)
        return self.learning_rate - (self.learning_rate - self.lr_end) * fallen


@register_schedule()
@dataclass
class ConstantWithCoolDownLR(_WarmUpSchedule):
    """Five stages: warm-up, constant, cosine to ``lr_end1``, constant, then ``lr_end2`` for good.

    ``decay_steps`` is the length of the cosine and defaults to the steps the other stages leave.

    Source: DeepSeek-V3 Technical Report, section 4.2.
    """

    learning_rate: float
    warmup_steps: int | None = None
    warmup_lr_init: float = 0.0
    warmup_ratio: float | None = None
    keep_steps: int = 0
    decay_steps: int | None = None
    decay_ratio: float | None = None
    total_steps: int | None = None
    num_cycles: float = 0.5
    lr_end1: float = 0.0
    final_steps: int = 0
    lr_end2: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.start = self.ramp + self.keep_steps
        if self.decay_steps is None and self.decay_ratio is None:
            self.length = max(1, self._total("the cosine") - self.start - self.final_steps)
        else:
            self.length = max(1, self._steps("decay", 0))

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step that follows ``step`` finished ones."""
        if step < self.ramp:
            return self._rise(step)
        if step < self.start:
            return float(self.learning_rate)
        progress = (step - self.start) / self.length
        if progress < 1.0:
            wave = half_cosine(progress, self.num_cycles)
            return self.lr_end1 + (self.learning_rate - self.lr_end1) * wave
        is_last = step >= self.start + self.length + self.final_steps
        return float(self.lr_end2 if is_last and self.lr_end2 is not None else self.lr_end1)
