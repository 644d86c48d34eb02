"""Typed settings of prediction: the processor and its tokenizer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mindformers.config.fields import Count, OptionalText
from mindformers.config.section import Section, only

NO_ADAPTER = "none"  # in adapter_id: the weights alone


class TokenizerSection(Section):
    """``processor.tokenizer``: text to token ids and back."""

    type: Literal["ChatGLM4Tokenizer", "ChatGLM3Tokenizer", "ChatGLM2Tokenizer"] = Field(
        default="ChatGLM4Tokenizer", description="The tokenizer."
    )
    vocab_file: OptionalText = Field(
        default="",
        description="Path of tokenizer.model, or of tokenizer.json with the files beside it; empty: those of the "
        "weights' folder.",
    )
    eos_token: str | None = Field(
        default=None, description="Token that ends a text; null: the tokenizer's own."
    )
    pad_token: str | None = Field(
        default=None, description="Token that fills up short rows; null: the tokenizer's own."
    )
    bos_token: str | None = Field(
        default=None, description="ChatGLM2 and ChatGLM3: upstream's name; ids do not follow it."
    )
    end_token: str | None = Field(default=None, description="As bos_token.")
    mask_token: str | None = Field(default=None, description="As bos_token.")
    gmask_token: str | None = Field(default=None, description="As bos_token.")
    unk_token: str | None = Field(default=None, description="As bos_token.")
    chat_template: str | None = Field(
        default=None,
        description="Jinja template of a conversation; null: that beside tokenizer.json, else GLM-4's own.",
    )
    clean_up_tokenization_spaces: bool = Field(
        default=False, description="Remove spaces before punctuation when decoding."
    )
    encode_special_tokens: bool = Field(
        default=False, description="Read for compatibility; text never becomes a control token."
    )
    padding_side: Literal["left", "right"] = Field(
        default="left", description="Where short rows are filled up; left when predicting."
    )
    truncation_side: Literal["left", "right"] = Field(
        default="left", description="Where long rows are cut."
    )
    model_max_length: Count | None = Field(
        default=None, description="Longest text (tokens); null: the model's seq_length."
    )
    trust_remote_code: Annotated[bool, only(False, feature="running code of a model folder")] = (
        Field(default=False, description="Run code of a model folder; refused.")
    )


class ProcessorSection(Section):
    """``processor``: prompts to rows of token ids."""

    type: Literal["GLMProcessor"] = Field(default="GLMProcessor", description="The processor.")
    return_tensors: Literal["ms", "np"] = Field(
        default="ms", description="ms: MindSpore tensors, np: NumPy arrays."
    )
    max_length: Count = Field(default=128, description="Length rows are filled up to (tokens).")
    padding: bool | Literal["max_length", "longest", "do_not_pad"] = Field(
        default="max_length", description="How far rows are filled up."
    )
    tokenizer: TokenizerSection | None = Field(default=None, description="The tokenizer.")
