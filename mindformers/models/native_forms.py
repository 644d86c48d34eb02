"""What answers with a native network: rows that grow together, and the steps of an engine. Needs no MindSpore."""

from __future__ import annotations

from typing import Any

from mindformers.generation.native_runner import NativeRunner
from mindformers.generation.native_step import NativeStep
from mindformers.models.cache_size import cached_token_bytes


def native_runner(
    config: Any, open_network: Any, prefix_length: int = 0, prefix: Any = None
) -> NativeRunner:
    """Return the runner of a native network.

    Args:
        config: The network's settings.
        open_network: Gives the network as its weights are now.
        prefix_length: Positions of a trained prefix.
        prefix: Gives that prefix as it is now.
    """
    return NativeRunner(
        open_network,
        vocab_size=config.vocab_size,
        max_length=config.seq_length,
        block_size=config.block_size,
        block_limit=config.num_blocks,
        prefix_length=prefix_length,
        prefix=prefix,
    )


def native_step(
    config: Any, network: Any, prefix_length: int = 0, prefix: Any = None
) -> NativeStep:
    """Return the steps of a native network, with a cache beside the one ``native_runner`` uses.

    Args:
        config: The network's settings.
        network: The network.
        prefix_length: Positions of a trained prefix.
        prefix: Gives that prefix.
    """
    return NativeStep(
        network.twin(),
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        max_length=config.seq_length,
        block_size=config.block_size,
        block_bytes=int(config.block_size * cached_token_bytes(config, config.n_kv_heads)),
        prefix_length=prefix_length,
        prefix=prefix,
    )
