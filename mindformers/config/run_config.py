"""``RunConfig``: every setting of a run, typed and frozen. Loaded once, then only read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mindformers.config.callbacks import CallbackSection
from mindformers.config.data import DatasetSection, DatasetTaskSection
from mindformers.config.fields import Count, Fraction, OptionalText, Rate
from mindformers.config.inference import ProcessorSection
from mindformers.config.lr_schedule import LrScheduleSection
from mindformers.config.model import Glm2ModelSection
from mindformers.config.section import Section, only
from mindformers.config.runtime import (
    ContextSection, MoeSection, MonitorSection, ParallelConfigSection, ParallelSection, RecomputeSection, SwapSection,
)
from mindformers.config.training import MetricSection, OptimizerSection, RunnerConfigSection, RunnerWrapperSection, TrainerSection


class ArchSection(Section):
    type: Literal["ChatGLM2ForConditionalGeneration"] = Field("ChatGLM2ForConditionalGeneration", description="The network class.")


class ModelSection(Section):
    network: Glm2ModelSection = Field(default_factory=Glm2ModelSection, alias="model_config", description="Settings of the network.")
    arch: ArchSection = Field(default_factory=ArchSection, description="The network class.")
    

class RunConfig(Section):
    model: ModelSection | None = None
    lr_schedule: LrScheduleSection | None = None
    callbacks: list[CallbackSection] = []
    eval_metric: MetricSection | list[MetricSection] | None = None
    recompute_config: RecomputeSection = RecomputeSection()
    parallel: ParallelSection = ParallelSection()
