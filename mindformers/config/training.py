"""Typed settings of training: lengths, step, metric."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from mindformers.config.fields import Count, PositiveRate
from mindformers.config.section import Section


class TrainerSection(Section):
    """``trainer``: the recipe a run follows."""

    type: Literal["CausalLanguageModelingTrainer"] = Field(
        default="CausalLanguageModelingTrainer", description="The recipe: next-token prediction."
    )
    model_name: str = Field(default="glm4_9b", description="Name of the model in messages.")


class RunnerConfigSection(Section):
    """``runner_config``: how long and how large."""

    epochs: Count = Field(default=1, description="Passes over the training data.")
    batch_size: Count = Field(default=1, description="Rows of one micro batch.")
    gradient_accumulation_steps: Count = Field(
        default=1, description="Micro batches whose gradients make one step."
    )
    stop_step: int = Field(
        default=0,
        ge=0,
        description="Steps after which training ends, whatever epochs says; 0: no limit.",
    )
    sink_mode: bool = Field(
        default=True, description="Ascend: feed data on the device; no effect on a CPU."
    )
    sink_size: int = Field(default=1, ge=-1, description="Ascend: steps fed at once; -1: an epoch.")
    num_classes: Count = Field(default=1, description="Read for compatibility; no effect.")

    @field_validator("sink_size")
    @classmethod
    def _not_zero(cls, value: int) -> int:
        if value == 0:
            raise ValueError("found 0; allowed: -1 (a whole epoch), or 1 or more")
        return value


class RunnerWrapperSection(Section):
    """``runner_wrapper``: what one training step does with the gradients."""

    type: Literal["MFTrainOneStepCell"] = Field(
        default="MFTrainOneStepCell", description="The training step."
    )
    use_clip_grad: bool = Field(
        default=False, description="Scale the gradients down to max_grad_norm."
    )
    max_grad_norm: PositiveRate = Field(
        default=1.0, description="Largest global L2 norm of the gradients."
    )
    scale_sense: PositiveRate = Field(
        default=1.0,
        description="Factor on the loss while gradients are computed; 1.0 with bfloat16.",
    )
    calculate_per_token_loss: bool = Field(
        default=False,
        description="Has no effect: micro batches always count by their trained tokens.",
    )
    print_separate_loss: bool = Field(
        default=False, description="Has no effect: GLM-4 has one loss."
    )
    local_norm: bool = Field(
        default=False,
        description="Find the norm of each parameter's gradient too; monitor_config shows them.",
    )
    global_norm_spike_threshold: PositiveRate = Field(
        default=1.0, description="With use_skip_data_by_global_norm: the norm that is too large."
    )
    use_skip_data_by_global_norm: bool = Field(
        default=False,
        description="Leave the weights as they are in a step whose norm is global_norm_spike_threshold or more.",
    )

    @field_validator("scale_sense", mode="before")
    @classmethod
    def _fixed_scale(cls, value: Any) -> Any:
        if isinstance(value, dict):
            raise ValueError(
                f"found {value.get('type', 'a section')}: a loss scale that changes is not implemented; "
                "allowed: a number, as in 'scale_sense: 1024.0'"
            )
        return value
