"""How many tokens the cache of keys and values has room for: counted, not guessed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mindformers.errors import ConfigError
from mindformers.logger import logger
from mindformers.machine import free_memory
from mindformers.tasks.plan_memory import cached_token_bytes

_SHARE = 0.5  # of the memory that is free once the weights are in it
_UNKNOWN = 8  # full contexts, where the free memory is not told


def cache_blocks(config: Any, model_dir: str | Path, tokens: int | None, max_running: int) -> int:
    """Return the blocks of a cache.

    Args:
        config: The network's settings.
        model_dir: Its weights, which are read where they lie and so need memory of their own.
        tokens: Room wanted; None: for ``max_running`` full contexts, or half of what memory allows.
        max_running: Answers that go on at once.

    Raises:
        ConfigError: If the room wanted is less than a block.
    """
    if tokens is None:
        tokens = min(max_running * config.seq_length, _affordable(config, Path(model_dir)))
        tokens = max(tokens, config.block_size)
    if tokens < config.block_size:
        raise ConfigError(
            f"found {tokens}", where="--cache_tokens", allowed=f"{config.block_size} or more"
        )
    return math.ceil(tokens / config.block_size)


def _affordable(config: Any, model_dir: Path) -> int:
    free = free_memory()
    if free is None:
        return int(_UNKNOWN * config.seq_length)
    weights = sum(path.stat().st_size for path in model_dir.glob("*.safetensors"))
    room = max(0, free - weights) * _SHARE
    return int(room / cached_token_bytes(config, config.n_kv_heads))


def report_capacity(config: Any, blocks: int, max_length: int) -> None:
    """Log what a server can hold."""
    tokens = blocks * config.block_size
    size = tokens * cached_token_bytes(config, config.n_kv_heads)
    logger.info(
        "prompt and answer: up to %d tokens; cache: %d tokens of all requests, up to %.1f MB",
        max_length,
        tokens,
        size / 1e6,
    )
    if max_length < config.seq_length:
        logger.warning(
            "the model reads up to %d tokens, but the cache has room for %d: free memory, or give "
            "--cache_tokens",
            config.seq_length,
            tokens,
        )
