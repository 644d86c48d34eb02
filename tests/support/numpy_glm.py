"""A GLM network written out in NumPy, in float64: what the library's numbers are compared with.

Nothing here comes from the package. Letters: S tokens, P prefix rows, N query heads, G key/value heads,
D head size, H hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Weights = Mapping[str, np.ndarray]  # under the original repositories' names


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network."""

    layers: int = 2
    hidden: int = 32
    heads: int = 4
    groups: int = 2
    head_dim: int = 8
    ffn: int = 48
    vocab: int = 64
    eps: float = 1e-5
    rope_base: float = 10000.0


def random_weights(sizes: Sizes, seed: int = 0) -> dict[str, np.ndarray]:
    """Return float32 weights as the original repositories store them; every value differs."""
    rng = np.random.default_rng(seed)
    hidden, mixed = sizes.hidden, sizes.heads * sizes.head_dim
    rows = mixed + 2 * sizes.groups * sizes.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.embedding.word_embeddings.weight": (sizes.vocab, hidden),
        "transformer.encoder.final_layernorm.weight": (hidden,),
        "transformer.output_layer.weight": (sizes.vocab, hidden),
    }
    for i in range(sizes.layers):
        layer = f"transformer.encoder.layers.{i}."
        shapes |= {
            layer + "input_layernorm.weight": (hidden,),
            layer + "self_attention.query_key_value.weight": (rows, hidden),
            layer + "self_attention.query_key_value.bias": (rows,),
            layer + "self_attention.dense.weight": (hidden, mixed),
            layer + "post_attention_layernorm.weight": (hidden,),
            layer + "mlp.dense_h_to_4h.weight": (2 * sizes.ffn, hidden),
            layer + "mlp.dense_4h_to_h.weight": (hidden, sizes.ffn),
        }
    scale = {1: 0.3, 2: 1.2 / np.sqrt(hidden)}
    return {
        name: (rng.normal(size=shape) * scale[len(shape)] + name.endswith("norm.weight")).astype(
            np.float32
        )
        for name, shape in shapes.items()
    }


def logits(
    weights: Weights, sizes: Sizes, ids: np.ndarray, prefix: np.ndarray | None = None
) -> np.ndarray:
    """Return the logits (S, V) of one sequence; arguments as for ``hidden_states``."""
    head = weights["transformer.output_layer.weight"].astype(np.float64)
    return hidden_states(weights, sizes, ids, prefix) @ head.T


def hidden_states(
    weights: Weights, sizes: Sizes, ids: np.ndarray, prefix: np.ndarray | None = None
) -> np.ndarray:
    """Return what the final norm gives for the tokens of one sequence, (S, H).

    Args:
        weights: The network's.
        sizes: Its sizes.
        ids: (S,) token ids at positions 0..S-1.
        prefix: (layers, 2, P, G, D) keys and values before the first token; keys are not rotated.
    """
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    x = w["transformer.embedding.word_embeddings.weight"][ids]
    for i in range(sizes.layers):
        layer = f"transformer.encoder.layers.{i}."
        before = None if prefix is None else prefix[i]
        x = x + _attention(
            _norm(x, w[layer + "input_layernorm.weight"], sizes), w, layer, sizes, before
        )
        h = _norm(x, w[layer + "post_attention_layernorm.weight"], sizes)
        gate, up = np.split(h @ w[layer + "mlp.dense_h_to_4h.weight"].T, 2, axis=-1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[layer + "mlp.dense_4h_to_h.weight"].T
    return _norm(x, w["transformer.encoder.final_layernorm.weight"], sizes)


def loss(
    weights: Weights,
    sizes: Sizes,
    ids: np.ndarray,
    labels: np.ndarray,
    prefix: np.ndarray | None = None,
) -> float:
    """Return the mean cross entropy over the labels of all rows that are not -100; ids and labels (B, S)."""
    found = []
    for row, wanted in zip(ids, labels, strict=True):
        scores = logits(weights, sizes, row, prefix)[wanted != -100]
        wanted = wanted[wanted != -100]
        high = scores.max(-1, keepdims=True)
        sums = np.log(np.exp(scores - high).sum(-1)) + high[:, 0]
        found.append(sums - scores[np.arange(len(wanted)), wanted])
    return float(np.concatenate(found).mean())


def _norm(x: np.ndarray, weight: np.ndarray, sizes: Sizes) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + sizes.eps) * weight


def _rotate(heads: np.ndarray, base: float) -> np.ndarray:
    """Turn channel pairs (2j, 2j + 1) of the first half of every head; (S, heads, D)."""
    out = heads.copy()
    half = heads.shape[-1] // 2
    for position in range(len(heads)):
        for j in range(half // 2):
            angle = position * base ** (-2 * j / half)
            a, b = heads[position, :, 2 * j], heads[position, :, 2 * j + 1]
            out[position, :, 2 * j] = a * np.cos(angle) - b * np.sin(angle)
            out[position, :, 2 * j + 1] = b * np.cos(angle) + a * np.sin(angle)
    return out


def _attention(
    x: np.ndarray, w: Weights, layer: str, sizes: Sizes, before: np.ndarray | None
) -> np.ndarray:
    name, n, g, d = layer + "self_attention.", sizes.heads, sizes.groups, sizes.head_dim
    qkv = x @ w[name + "query_key_value.weight"].T + w[name + "query_key_value.bias"]
    qkv = qkv.reshape(len(x), n + 2 * g, d)
    query = _rotate(qkv[:, :n], sizes.rope_base)
    key, value = _rotate(qkv[:, n : n + g], sizes.rope_base), qkv[:, n + g :]
    num_before = 0
    if before is not None:
        num_before = before.shape[1]
        key, value = np.concatenate([before[0], key]), np.concatenate([before[1], value])
    mixed = np.empty((len(x), n, d))
    for head in range(n):
        group = head // (n // g)  # consecutive query heads share a key/value head
        for s in range(len(x)):
            seen = num_before + s + 1
            scores = key[:seen, group] @ query[s, head] / np.sqrt(d)
            chances = np.exp(scores - scores.max())
            mixed[s, head] = chances / chances.sum() @ value[:seen, group]
    return mixed.reshape(len(x), n * d) @ w[name + "dense.weight"].T
