"""Typed settings of the learning-rate schedules: one section per ``lr_schedule.type``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from mindformers.config.fields import Count, Fraction, PositiveRate, Rate, named_type
from mindformers.config.section import Section

ALIASES = {
    "constant_with_warmup": "ConstantWarmUpLR",
    "linear": "LinearWithWarmUpLR",
    "cosine": "CosineWithWarmUpLR",
    "cosine_with_restarts": "CosineWithRestartsAndWarmUpLR",
    "polynomial": "PolynomialWithWarmUpLR",
    "cosine_annealing": "CosineAnnealingLR",
    "cosine_annealing_warm_restarts": "CosineAnnealingWarmRestarts",
}

Steps = Annotated[int, Field(ge=0)]
_CanonicalName = AfterValidator(lambda name: ALIASES.get(name, name))


def _all_steps(value: int | None) -> int | None:
    if value is not None and value != -1 and value < 1:
        raise ValueError(f"found {value}; allowed: -1 or null (the whole run), or 1 or more")
    return value


TotalSteps = Annotated[int | None, AfterValidator(_all_steps)]


class _WarmUpSection(Section):
    learning_rate: Rate | None = Field(
        default=None, description="Highest rate; null: optimizer.learning_rate."
    )
    total_steps: TotalSteps = Field(
        default=-1, description="Length of the schedule (steps); -1 or null: the whole run."
    )
    warmup_steps: Steps | None = Field(default=None, description="Length of the rise (steps).")
    warmup_ratio: Fraction | None = Field(
        default=None,
        description="Length of the rise as a part of total_steps; wins over warmup_steps.",
    )
    warmup_epochs: Rate | None = Field(
        default=None, description="Length of the rise in epochs, instead of steps or a ratio."
    )
    warmup_lr_init: Rate = Field(default=0.0, description="Rate the rise begins at.")

    @model_validator(mode="after")
    def _one_length(self) -> _WarmUpSection:
        if self.warmup_epochs is not None and (self.warmup_steps or self.warmup_ratio):
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} stands beside warmup_steps or warmup_ratio; "
                "allowed: one of them"
            )
        return self


class ConstantWarmUpSection(_WarmUpSection):
    """A rise, then one rate."""

    type: Annotated[Literal["ConstantWarmUpLR", "constant_with_warmup"], _CanonicalName] = Field(
        default="ConstantWarmUpLR", description="The schedule."
    )


class LinearWithWarmUpSection(_WarmUpSection):
    """A rise, then a straight line to 0."""

    type: Annotated[Literal["LinearWithWarmUpLR", "linear"], _CanonicalName] = Field(
        default="LinearWithWarmUpLR", description="The schedule."
    )


class CosineWithWarmUpSection(_WarmUpSection):
    """A rise, then a cosine to lr_end."""

    type: Annotated[Literal["CosineWithWarmUpLR", "cosine"], _CanonicalName] = Field(
        default="CosineWithWarmUpLR", description="The schedule."
    )
    num_cycles: PositiveRate = Field(
        default=0.5, description="Waves of the cosine; 0.5 only falls."
    )
    lr_end: Rate = Field(default=0.0, description="Rate at the end.")
    decay_steps: Count | None = Field(
        default=None, description="Step the fall ends at, warm-up included; null: total_steps."
    )
    decay_ratio: Fraction | None = Field(
        default=None, description="The same as a part of total_steps; wins over decay_steps."
    )


class CosineWithRestartsSection(_WarmUpSection):
    """A rise, then num_cycles cosines to lr_end."""

    type: Annotated[
        Literal["CosineWithRestartsAndWarmUpLR", "cosine_with_restarts"], _CanonicalName
    ] = Field(default="CosineWithRestartsAndWarmUpLR", description="The schedule.")
    num_cycles: PositiveRate = Field(default=1.0, description="Falls, each from learning_rate.")
    lr_end: Rate = Field(default=0.0, description="Rate at the end.")
    decay_steps: Count | None = Field(default=None, description="Length of the falls (steps).")


class PolynomialWithWarmUpSection(_WarmUpSection):
    """A rise, then a polynomial to lr_end."""

    type: Annotated[Literal["PolynomialWithWarmUpLR", "polynomial"], _CanonicalName] = Field(
        default="PolynomialWithWarmUpLR", description="The schedule."
    )
    lr_end: Rate = Field(default=1e-7, description="Rate at the end; below learning_rate.")
    power: PositiveRate = Field(default=1.0, description="Exponent of the fall; 1.0 is a line.")
    decay_steps: Count | None = Field(default=None, description="Length of the fall (steps).")


class CosineAnnealingSection(Section):
    """A cosine down and up again, for ever."""

    type: Annotated[Literal["CosineAnnealingLR", "cosine_annealing"], _CanonicalName] = Field(
        default="CosineAnnealingLR", description="The schedule."
    )
    base_lr: PositiveRate = Field(description="Highest rate.")
    t_max: Count = Field(description="Length of a fall (steps).")
    eta_min: Rate = Field(default=0.0, description="Lowest rate.")


class CosineAnnealingWarmRestartsSection(Section):
    """Cosines down, each t_mult times as long as the one before."""

    type: Annotated[
        Literal["CosineAnnealingWarmRestarts", "cosine_annealing_warm_restarts"], _CanonicalName
    ] = Field(default="CosineAnnealingWarmRestarts", description="The schedule.")
    base_lr: PositiveRate = Field(description="Highest rate.")
    t_0: Count = Field(description="Length of the first fall (steps).")
    t_mult: Count = Field(default=1, description="Factor on the length of each next fall.")
    eta_min: Rate = Field(default=0.0, description="Lowest rate.")


class WarmUpStableDecaySection(_WarmUpSection):
    """A rise, a plateau, a fall to lr_end."""

    type: Literal["WarmUpStableDecayLR"] = Field(
        default="WarmUpStableDecayLR", description="The schedule."
    )
    lr_end: Rate = Field(default=1e-7, description="Rate at the end.")
    decay_start_steps: Steps | None = Field(default=None, description="Step the fall begins at.")
    decay_start_ratio: Fraction | None = Field(
        default=None, description="The same as a part of total_steps; wins over decay_start_steps."
    )


class ConstantWithCoolDownSection(_WarmUpSection):
    """A rise, a plateau, a cosine to lr_end1, then a line to lr_end2."""

    type: Literal["ConstantWithCoolDownLR"] = Field(
        default="ConstantWithCoolDownLR", description="The schedule."
    )
    keep_steps: Steps = Field(default=0, description="Length of the plateau (steps).")
    decay_steps: Count | None = Field(default=None, description="Length of the cosine (steps).")
    decay_ratio: Fraction | None = Field(
        default=None, description="The same as a part of total_steps; wins over decay_steps."
    )
    num_cycles: PositiveRate = Field(
        default=0.5, description="Waves of the cosine; 0.5 only falls."
    )
    lr_end1: Rate = Field(default=0.0, description="Rate at the end of the cosine.")
    final_steps: Steps = Field(default=0, description="Length of the line (steps).")
    lr_end2: Rate | None = Field(
        default=None, description="Rate at the end of the line; null: lr_end1."
    )


DEFAULT_TYPE = "CosineWithWarmUpLR"


LrScheduleSection = Annotated[
    Annotated[ConstantWarmUpSection, Tag("ConstantWarmUpLR")]
    | Annotated[LinearWithWarmUpSection, Tag("LinearWithWarmUpLR")]
    | Annotated[CosineWithWarmUpSection, Tag("CosineWithWarmUpLR")]
    | Annotated[CosineWithRestartsSection, Tag("CosineWithRestartsAndWarmUpLR")]
    | Annotated[PolynomialWithWarmUpSection, Tag("PolynomialWithWarmUpLR")]
    | Annotated[CosineAnnealingSection, Tag("CosineAnnealingLR")]
    | Annotated[CosineAnnealingWarmRestartsSection, Tag("CosineAnnealingWarmRestarts")]
    | Annotated[WarmUpStableDecaySection, Tag("WarmUpStableDecayLR")]
    | Annotated[ConstantWithCoolDownSection, Tag("ConstantWithCoolDownLR")],
    Discriminator(named_type(DEFAULT_TYPE, ALIASES)),
]
