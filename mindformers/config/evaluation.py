"""Typed settings of an evaluation: what is reported, and how often while training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from mindformers.config.fields import Count
from mindformers.config.neutral_keys import NeutralKeys
from mindformers.config.section import Section

# Upstream's metrics of other networks: they bind, and are refused where an evaluation would need them.
OTHER_TASKS = {
    "EntityScore": "of networks that label entities",
    "PromptAccMetric": "of data that holds several prompts for a text",
}
Turns = Literal["all", "last", "first"]
TEXT_METRICS = ("ADGENMetric", "EnglishTextMetric", "EmF1Metric", "ToolCallMetric")


class MetricSection(Section):
    """``metric``: what an evaluation reports besides loss, perplexity and token accuracy; one or a list."""

    type: Literal[
        "PerplexityMetric",
        "ADGENMetric",
        "EnglishTextMetric",
        "EmF1Metric",
        "ToolCallMetric",
        "EntityScore",
        "PromptAccMetric",
    ] = Field(
        default="PerplexityMetric",
        description="The metric; those of texts let the model answer. EntityScore and PromptAccMetric are "
        "of other networks: not implemented.",
    )


class ReportSection(Section):
    """``report``: the pages a finetuning run leaves in its folder."""

    enabled: bool = Field(default=True, description="Write report.md and report.html at the end.")
    samples: list[str] = Field(
        default=[],
        description="Questions to answer before the first step and after the last; one process only.",
    )
    sample_length: Count = Field(default=64, description="Longest answer to one (tokens).")


def _as_list(value: Any) -> Any:
    return [] if value is None else [value] if isinstance(value, dict) else value


class EvaluationKeys(NeutralKeys):
    """Keys of an evaluation at the top of a file."""

    metric: Annotated[list[MetricSection], BeforeValidator(_as_list)] = Field(
        default=[],
        description="What an evaluation reports besides loss, perplexity and token accuracy.",
    )
    do_eval: bool = Field(
        default=False, description="Evaluate on eval_dataset while training, and at its end."
    )
    eval_step_interval: int = Field(
        default=100,
        ge=-1,
        description="Steps between two evaluations while training; -1: by epochs.",
    )
    eval_epoch_interval: int = Field(
        default=-1,
        ge=-1,
        description="Epochs between two evaluations while training; -1: by steps.",
    )

    eval_turns: Turns = Field(
        default="all",
        description="With metrics of texts: which of an assistant's turns in a conversation the model answers, "
        "each after what was really said before it.",
    )
    report: ReportSection = Field(
        default_factory=ReportSection, description="The pages a run leaves in its folder."
    )

    @field_validator("eval_step_interval", "eval_epoch_interval")
    @classmethod
    def _not_zero(cls, value: int) -> int:
        if value == 0:
            raise ValueError("found 0; allowed: -1 (off), or 1 or more")
        return value

    @property
    def has_text_metrics(self) -> bool:
        """Whether an evaluation lets the model answer."""
        return any(each.type in TEXT_METRICS for each in self.metric)
