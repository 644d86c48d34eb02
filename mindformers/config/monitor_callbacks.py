"""Callbacks that look inside a run: the profiler's, and TensorBoard's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mindformers.config.fields import Count, OptionalText
from mindformers.config.section import FILLED_IN, Section, only


class ProfileMonitorSection(Section):
    """Where the time of some steps goes; ``profile: True`` adds it too."""

    type: Literal["ProfileMonitor"] = Field(default="ProfileMonitor", description="The callback.")
    start_step: Count = Field(default=1, description="First step to profile.")
    stop_step: Count = Field(default=10, description="Last step to profile.")
    output_path: OptionalText = Field(
        default="", description="Folder; empty: profile in output_dir."
    )
    profile_rank_ids: list[int] | None = Field(
        default=None, description="Processes to profile; null: all."
    )
    profile_memory: bool = Field(default=False, description="Ascend: memory of operators too.")
    profiler_level: int = Field(
        default=0, ge=0, le=2, description="Ascend: how much is recorded of an operator."
    )
    with_stack: bool = Field(
        default=False, description="Record where in Python operators were called."
    )
    mstx: bool = Field(default=False, description="Ascend: record marks.")
    start_profile: bool = Field(
        default=True, description="Has no effect: the profiler runs from start_step on."
    )
    profile_communication: bool = Field(
        default=False, description="Has no effect: from level 1 on messages are operators."
    )
    data_simplification: bool = Field(
        default=True, description="Read for compatibility; no effect."
    )
    profile_pipeline: Annotated[bool, only(False, feature="choosing processes by stage")] = Field(
        default=False, description="One process of each stage; not implemented."
    )
    config: Annotated[Any, only(None, feature=FILLED_IN)] = Field(
        default=None, description="Filled in by the run."
    )

    @model_validator(mode="after")
    def _in_order(self) -> ProfileMonitorSection:
        if self.stop_step < self.start_step:
            raise ValueError(
                f"stop_step {self.stop_step} comes before start_step {self.start_step}; "
                "allowed: the same step or a later one"
            )
        return self


class SummaryMonitorSection(Section):
    """TensorBoard events of the steps, and histograms of weights."""

    type: Literal["SummaryMonitor"] = Field(default="SummaryMonitor", description="The callback.")
    summary_dir: OptionalText = Field(
        default="", description="Folder; empty: summary in output_dir."
    )
    collect_freq: Count = Field(default=10, description="Steps between two records.")
    collect_specified_data: dict[Literal["histogram_regular"], str] | None = Field(
        default=None,
        description="What else: histogram_regular, a regular expression found in the names of weights to draw.",
    )
    keep_default_action: bool = Field(default=True, description="Read for compatibility.")
    custom_lineage_data: Annotated[Any, only(None, feature="data of MindInsight")] = Field(
        default=None, description="Data of MindInsight; not implemented."
    )
    collect_tensor_freq: Annotated[int | None, only(None, feature="writing tensors")] = Field(
        default=None, description="Steps between tensors; not implemented."
    )
    max_file_size: Annotated[int | None, only(None, feature="a limit on the file")] = Field(
        default=None, description="Largest file; not implemented."
    )
    export_options: Annotated[Any, only(None, feature="writing tensors")] = Field(
        default=None, description="Files of tensors; not implemented."
    )
