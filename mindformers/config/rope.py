"""``model.model_config.rope_scaling``: positions beyond the trained length."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mindformers.config.fields import Count, PositiveRate
from mindformers.config.section import Section


class RopeScalingSection(Section):
    """YaRN: slow rotations are slowed further, so that positions beyond the trained ones look familiar."""

    rope_type: Literal["yarn"] = Field(
        default="yarn", description="The method; others are refused."
    )
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        description="How many times the trained length; seq_length may be up to their product."
    )
    original_max_position_embeddings: Count = Field(
        description="Length the model was trained with (tokens); 32768 in GLM-4-0414."
    )
    beta_fast: PositiveRate = Field(
        default=32,
        description="Channels that turn more often than this within it stay as they are.",
    )
    beta_slow: PositiveRate = Field(
        default=1, description="Channels that turn less often are slowed by the whole factor."
    )
    attention_factor: PositiveRate | None = Field(
        default=None, description="Multiplies cos and sin; null: 0.1 ln(factor) + 1."
    )
