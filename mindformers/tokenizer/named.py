"""The tokenizer that a section of the settings names."""

from __future__ import annotations

from typing import Any

from mindformers.config.inference import TokenizerSection
from mindformers.registry import MindFormerModuleType, MindFormerRegister


def tokenizer_of(section: TokenizerSection) -> Any:
    """Return the tokenizer a section with a ``vocab_file`` describes."""
    settings = {key: value for key, value in section.model_dump().items() if value is not None}
    for name in ("type", "trust_remote_code"):
        settings.pop(name, None)
    return MindFormerRegister.get_cls(MindFormerModuleType.TOKENIZER, section.type)(**settings)
