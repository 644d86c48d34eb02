"""The tokenizer that a section of the settings names."""

from __future__ import annotations

from typing import Any

from mindformers.config.inference import TokenizerSection
from mindformers.registry import MindFormerModuleType, MindFormerRegister


def tokenizer_of(section: TokenizerSection) -> Any:
    """Return the tokenizer a section with a ``vocab_file`` describes."""
    family = MindFormerRegister.get_cls(MindFormerModuleType.TOKENIZER, section.type)
    own = {"type", "trust_remote_code", "vocab_file"}
    settings = section.model_dump(exclude_none=True, exclude=own)
    # Of a tokenizer.json the chat template stands in the files beside it.
    is_json = section.vocab_file.endswith(".json")
    build = family.from_pretrained if is_json else family
    return build(section.vocab_file, **settings)
