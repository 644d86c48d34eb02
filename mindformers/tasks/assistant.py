"""The smaller model of a run that guesses tokens: opened, and its vocabulary compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindformers.config.run_config import RunConfig
from mindformers.errors import ConfigError
from mindformers.models.auto import AutoModel, AutoTokenizer, open_in_files
from mindformers.tokenizer.pretrained_files import vocabulary_in


def open_assistant(config: RunConfig, tokenizer: Any) -> Any:
    """Return the model in the folder ``assistant_model``.

    Args:
        config: The run's settings.
        tokenizer: That of the model it guesses for.

    Raises:
        ConfigError: If the folder holds another vocabulary.
    """
    folder = Path(config.assistant_model)
    if vocabulary_in(folder) is not None:
        _require_same(AutoTokenizer.from_pretrained(folder), tokenizer, str(folder))
    found = open_in_files(folder) if config.context.device_target == "CPU" else None
    return AutoModel.from_pretrained(folder) if found is None else found


def _require_same(own: Any, wanted: Any, folder: str) -> None:
    if own.vocab_hash == wanted.vocab_hash and own.special_tokens == wanted.special_tokens:
        return
    raise ConfigError(
        f"the vocabulary of {folder} ({len(own)} ids) is not the model's ({len(wanted)} ids)",
        where="assistant_model",
        allowed="a model with the same tokenizer",
        fix="take a smaller model of the same family",
    )
