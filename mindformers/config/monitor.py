"""Typed settings of ``monitor_config``: figures of the network while it is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from mindformers.config.fields import Count, OptionalText, PositiveRate
from mindformers.config.section import Section, only

Way = Literal["log", "tensorboard"]
Format = Way | list[Way] | None
_WHERE = "log, tensorboard, both in a list, or null"


def _no_rank(value: dict[str, Any] | None) -> dict[str, Any] | None:
    if value and value.get("format"):
        raise ValueError("stable ranks are not implemented; allowed: format null")
    return value


class MonitorSection(Section):
    """``monitor_config``: norms of weights, gradients and optimizer state."""

    monitor_on: bool = Field(
        default=False, description="Collect the figures that a format below asks for."
    )
    step_interval: Count = Field(default=1, description="Steps between two looks.")
    target: list[str] | None = Field(
        default=None,
        description="Regular expressions found in the names of parameters to look at; null: all.",
    )
    invert: bool = Field(default=False, description="Look at the parameters target leaves out.")
    local_norm_format: Format = Field(
        default=None, description=f"Norm of each parameter's gradient: {_WHERE}."
    )
    device_local_norm_format: Format = Field(
        default=None, description=f"Norm of all gradients of a process: {_WHERE}."
    )
    weight_state_format: Format = Field(
        default=None, description=f"Norm of each trained weight: {_WHERE}."
    )
    optimizer_state_format: Format = Field(
        default=None, description=f"Norm of each tensor of the optimizer's state: {_WHERE}."
    )
    throughput_baseline: PositiveRate | None = Field(
        default=None, description="Tokens per second that throughput is compared with."
    )
    print_struct: bool = Field(default=False, description="Log the network once.")
    check_for_global_norm: bool = Field(
        default=False, description="Stop when the gradient norm stays too large."
    )
    global_norm_spike_threshold: PositiveRate = Field(
        default=3.0, description="With check_for_global_norm: the norm that is too large."
    )
    global_norm_spike_count_threshold: Count = Field(
        default=10, description="With check_for_global_norm: steps in a row that are too many."
    )
    dump_path: OptionalText = Field(
        default="./dump", description="Read for compatibility; no files are needed."
    )
    local_loss_format: Annotated[Any, only(None, feature="the loss of each process")] = Field(
        default=None, description="Loss of each process; not implemented."
    )
    device_local_loss_format: Annotated[Any, only(None, feature="the loss of each process")] = (
        Field(default=None, description="Loss of each process; not implemented.")
    )
    max_attention_logit_format: Annotated[Any, only(None, feature="the largest logit")] = Field(
        default=None, description="Largest logit of attention; not implemented."
    )
    stable_rank_config: Annotated[dict[str, Any] | None, AfterValidator(_no_rank)] = Field(
        default=None, description="Stable ranks of weights; not implemented."
    )
