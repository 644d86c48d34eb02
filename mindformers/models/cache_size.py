"""How much memory a network's key/value cache takes; counted from its settings."""

from __future__ import annotations

from typing import Any


def cached_token_bytes(network: Any, groups: int, on_cpu: bool = True) -> float:
    """Return the bytes a token's keys and values take in so many key/value heads of all layers."""
    kind = network.compute_dtype
    if on_cpu:
        kind = network.kv_cache_dtype or kind
    width = {"float32": 4.0, "bfloat16": 2.0, "float16": 4.0 if on_cpu else 2.0}
    scale = 4.0 / network.kv_channels  # of a head's int8 row
    element = width.get(kind, 1.0 + scale)
    return float(2 * groups * network.kv_channels * element * network.num_layers)
