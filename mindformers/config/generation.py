"""The keys of ``model.model_config`` that are defaults of ``generate``; null: what the model's files say."""

from __future__ import annotations

from pydantic import Field

from mindformers.config.fields import Count, Fraction, PositiveRate, Rate
from mindformers.config.section import Section


class GenerationKeys(Section):
    """How an answer is chosen and when it ends, where a call does not say."""

    repetition_penalty: PositiveRate = Field(
        default=1.0,
        description="Default of generate(): divides the logit of an id that occurred; 1.0 is off.",
    )
    max_decode_length: Count | None = Field(
        default=None, description="Default length of prompt and answer (tokens)."
    )
    max_length: Count | None = Field(
        default=None,
        description="Default length of prompt and answer (tokens); wins over the one above.",
    )
    max_new_tokens: Count | None = Field(
        default=None, description="Default length of the answer (tokens); wins over both above."
    )
    min_length: int | None = Field(
        default=None,
        ge=0,
        description="Default of generate(): shortest prompt and answer (tokens).",
    )
    min_new_tokens: int | None = Field(
        default=None, ge=0, description="Default of generate(): shortest answer (tokens)."
    )
    temperature: Rate | None = Field(
        default=None, description="Default of generate(): divides the logits when drawing."
    )
    top_k: int | None = Field(
        default=None,
        ge=0,
        description="Default of generate(): draw among the k likeliest ids; 0: all.",
    )
    top_p: Fraction | None = Field(
        default=None, description="Default of generate(): draw among ids of this much probability."
    )
    do_sample: bool | None = Field(
        default=None, description="Default of generate(): draw instead of taking the likeliest."
    )
    prompt_lookup_num_tokens: Count | None = Field(
        default=None,
        description="Default of generate(): guess up to so many tokens at a time from the text so far; null: none.",
    )
    max_matching_ngram_size: Count | None = Field(
        default=None, description="With the key above: tokens compared, at most; null: 8."
    )
    num_assistant_tokens: Count | None = Field(
        default=None,
        description="With assistant_model: tokens it guesses at a time, at most; null: 5.",
    )
