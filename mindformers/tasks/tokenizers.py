"""The tokenizer of a run: the one its settings name, checked against the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindformers.config.run_config import RunConfig
from mindformers.errors import ConfigError
from mindformers.models.base_config import PretrainedConfig
from mindformers.models.glm2.tokenizer_choice import open_tokenizer
from mindformers.tokenizer.named import tokenizer_of
from mindformers.tokenizer.pretrained_files import vocabulary_in


def build_tokenizer(config: RunConfig) -> Any:
    """Return the tokenizer of the processor section, or of the weights' own directory.

    Raises:
        ConfigError: If neither is there.
    """
    section = config.processor.tokenizer if config.processor else None
    if section and section.vocab_file:
        return tokenizer_of(section)
    if vocabulary_in(Path(config.weights_path)) is not None:
        return open_tokenizer(config.weights_path, section.type if section else None)
    raise ConfigError(
        "no vocabulary is named",
        where="processor.tokenizer.vocab_file",
        fix="add --processor.tokenizer.vocab_file with the path of tokenizer.model or tokenizer.json",
    )


def training_tokenizer(config: RunConfig, settings: PretrainedConfig, given: Any = None) -> Any:
    """Return the tokenizer that makes token ids of training text; it must be the network's.

    Args:
        config: The run's settings.
        settings: The network's.
        given: A tokenizer that stands before those the settings name.

    Raises:
        ConfigError: If none is named, or it is another network's.
    """
    section = config.train_dataset.tokenizer if config.train_dataset else None
    tokenizer = given
    if tokenizer is None:
        own = section if section and section.vocab_file else None
        tokenizer = tokenizer_of(own) if own else build_tokenizer(config)
    check_tokenizer(tokenizer, settings)
    return tokenizer


def check_tokenizer(tokenizer: Any, settings: PretrainedConfig) -> None:
    """Refuse a vocabulary that is not the network's.

    Raises:
        ConfigError: If it has more ids than the network, or the ids that end an answer are none of its
            control tokens.
    """
    where = "processor.tokenizer.vocab_file"
    if len(tokenizer) > settings.vocab_size:
        raise ConfigError(
            f"a vocabulary of {len(tokenizer)} ids for a network of {settings.vocab_size}",
            where=where,
            fix="take the tokenizer.model the network was trained with",
        )
    special = tokenizer.special_tokens
    strange = [each for each in settings.eos_token_ids if each not in special.values()]
    if strange:
        proper = [special[name] for name in tokenizer.end_tokens]
        raise ConfigError(
            f"eos_token_id {strange} is no control token of this vocabulary",
            where=where,
            allowed=f"eos_token_id {proper} and pad_token_id {tokenizer.pad_token_id}",
            fix="set them under model.model_config, or take the network's own tokenizer.model",
        )
