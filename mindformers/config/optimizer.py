"""Typed settings of the optimizers: one section per ``optimizer.type``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from mindformers.config.fields import Count, PositiveRate, Rate, named_type
from mindformers.config.section import Section, only
from mindformers.config.weight_patterns import matches

ALIASES = {"Adafactor": "AdaFactor"}
DEFAULT_TYPE = "AdamW"
ELEMENTWISE = (
    "AdamW",
    "SGD",
    "Lion",
)  # each element is updated by itself, so that processes can share a weight

Part = Annotated[float, Field(ge=0, lt=1)]
_SWAP = only(False, feature="keeping the moments on the host")
_NO_SWAP = Field(default=False, description="Moments in host memory; not implemented.")
_SCALED = Field(
    default=1.0, description="Has no effect: runner_wrapper.scale_sense scales the loss."
)


# What a section says of the weights themselves; the other keys are arguments of the optimizer.
OF_WEIGHTS = ("lr_scales", "freeze_include", "freeze_exclude")


class _OptimizerSection(Section):
    learning_rate: Rate = Field(
        default=5e-5, description="Rate per step; used where lr_schedule gives none."
    )
    weight_decay: Rate = Field(
        default=0.0,
        description="Decay per step, times the learning rate; norms and biases do not decay.",
    )
    ema_decay: Part | None = Field(
        default=None,
        description="Keep an exponential moving average of the weights: the part of it a step leaves; null: none.",
    )
    lr_scales: dict[str, Rate] = Field(
        default={},
        description="Factors on the learning rate: a pattern of weight names, as '*embedding*', and its factor;"
        " the first that fits counts. For a factor per layer see layer_scale.",
    )
    freeze_include: list[str] = Field(
        default=[],
        description="Weights that are not trained: patterns of names, as '*embedding*'; ['*'] is all.",
    )
    freeze_exclude: list[str] = Field(
        default=[], description="Weights that are trained though freeze_include names them."
    )

    @property
    def updates_elements(self) -> bool:
        """Whether each element is updated by itself, so that processes can share a weight."""
        return True

    def freezes(self, name: str) -> bool:
        """Tell whether a weight stays as it is: ``freeze_include`` names it, and ``freeze_exclude`` does not."""
        return matches(name, self.freeze_include) and not matches(name, self.freeze_exclude)


class AdamWSection(_OptimizerSection):
    """AdamW with decoupled weight decay: two moments of each weight."""

    type: Literal["AdamW"] = Field(default="AdamW", description="The optimizer.")
    betas: list[Part] = Field(
        default=[0.9, 0.999],
        min_length=2,
        max_length=2,
        description="Decay rates of the two moments.",
    )
    eps: PositiveRate = Field(default=1e-8, description="Added to the root of the second moment.")
    use_fused: bool = Field(
        default=False, description="Has no effect: the update is fused in any case."
    )
    amsgrad: Annotated[bool, only(False, feature="AMSGrad")] = Field(
        default=False, description="AMSGrad; not implemented."
    )
    maximize: Annotated[bool, only(False, feature="maximizing the loss")] = Field(
        default=False, description="Climb instead of descend; not implemented."
    )
    swap: Annotated[bool, _SWAP] = _NO_SWAP


class SGDSection(_OptimizerSection):
    """Stochastic gradient descent; its weight decay is part of the gradient."""

    type: Literal["SGD"] = Field(default="SGD", description="The optimizer.")
    momentum: Part = Field(
        default=0.0, description="What a step leaves of the sum of gradients; 0 keeps no sum."
    )
    dampening: Part = Field(
        default=0.0, description="Part of a gradient that does not enter the sum."
    )
    nesterov: bool = Field(default=False, description="Look one step ahead; needs momentum.")
    loss_scale: Annotated[float, only(1.0, feature="a loss scale of the optimizer")] = _SCALED

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> SGDSection:
        if self.nesterov and (self.dampening or not self.momentum):
            raise ValueError(
                f"nesterov stands with momentum {self.momentum} and dampening {self.dampening}; "
                "allowed: with a momentum above 0 and dampening 0"
            )
        return self


class LionSection(_OptimizerSection):
    """Lion: the sign of a mean of gradients; one moment of each weight."""

    type: Literal["Lion"] = Field(default="Lion", description="The optimizer.")
    betas: list[Part] = Field(
        default=[0.9, 0.99],
        min_length=2,
        max_length=2,
        description="What the direction and the mean keep of the mean.",
    )


class AdaFactorSection(_OptimizerSection):
    """AdaFactor: second moments of rows and columns only."""

    type: Annotated[
        Literal["AdaFactor", "Adafactor"], AfterValidator(lambda name: ALIASES.get(name, name))
    ] = Field(default="AdaFactor", description="The optimizer.")
    eps: list[PositiveRate] = Field(
        default=[1e-30, 1e-3],
        min_length=2,
        max_length=2,
        description="Added to a squared gradient; least size of a weight for scale_parameter.",
    )
    clip_threshold: PositiveRate = Field(
        default=1.0, description="Largest root mean square of an update, before the rate."
    )
    decay_rate: PositiveRate = Field(
        default=0.8, description="The moments of step t keep 1 - t**-decay_rate."
    )
    beta1: Part | None = Field(
        default=None, description="What a step leaves of the mean of updates; null keeps none."
    )
    scale_parameter: bool = Field(
        default=True, description="Multiply the rate by the root mean square of the weight."
    )
    relative_step: bool = Field(
        default=False,
        description="Take the rate from the step, 1/sqrt(t), at most 0.01; lr_schedule is left out.",
    )
    warmup_init: bool = Field(
        default=False, description="With relative_step: at most t / 1,000,000."
    )
    compression: Annotated[bool, only(False, feature="moments in float16")] = Field(
        default=False, description="Moments in float16; not implemented."
    )
    loss_scale: Annotated[float, only(1.0, feature="a loss scale of the optimizer")] = _SCALED

    @model_validator(mode="after")
    def _warmup_is_relative(self) -> AdaFactorSection:
        if self.warmup_init and not self.relative_step:
            raise ValueError("warmup_init stands without relative_step; allowed: both, or neither")
        return self

    @property
    def updates_elements(self) -> bool:
        """Rows, columns and whole matrices count."""
        return False


class MuonSection(_OptimizerSection):
    """Muon for the layers' matrices, AdamW for everything else."""

    type: Literal["Muon"] = Field(default="Muon", description="The optimizer.")
    matched_adamw_rms: PositiveRate = Field(
        default=0.2, description="Root mean square of a matrix's update, before the rate."
    )
    momentum: Part = Field(default=0.95, description="What a step leaves of the mean of gradients.")
    nesterov: bool = Field(default=True, description="Look one step ahead.")
    ns_steps: Count = Field(default=5, description="Newton-Schulz iterations.")
    adamw_betas: list[Part] = Field(
        default=[0.95, 0.95], min_length=2, max_length=2, description="Moments of AdamW."
    )
    adamw_eps: PositiveRate = Field(default=1e-8, description="Added by AdamW.")
    qk_clip_threshold: PositiveRate = Field(
        default=100.0, description="Read for compatibility; no effect on this network."
    )
    swap: Annotated[bool, _SWAP] = _NO_SWAP

    @property
    def updates_elements(self) -> bool:
        """Rows, columns and whole matrices count."""
        return False


OptimizerSection = Annotated[
    Annotated[AdamWSection, Tag("AdamW")]
    | Annotated[SGDSection, Tag("SGD")]
    | Annotated[LionSection, Tag("Lion")]
    | Annotated[AdaFactorSection, Tag("AdaFactor")]
    | Annotated[MuonSection, Tag("Muon")],
    Discriminator(named_type(DEFAULT_TYPE, ALIASES)),
]
