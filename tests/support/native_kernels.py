"""Networks for the native kernels, of any odd size, and the same network in NumPy float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mindformers.ops.native.arrays import of_array
from mindformers.ops.native.network import NativeNetwork
from mindformers.ops.native.weights import LayerWeights, LinearWeight, NetworkSizes
from mindformers.ops.rotary_table import RotaryTable

# Nothing here is a multiple of a vector: 20 channels a head, 52 hidden, 36 in between, 97 ids.
ODD = NetworkSizes(
    hidden=52, heads=6, groups=3, head_dim=20, rotary_dim=10, ffn=36, vocab=97, eps=1e-6, block_size=4
)  # fmt: skip


def sizes(**changes: Any) -> NetworkSizes:
    return replace(ODD, **changes)


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Round float32 to the bits of bfloat16, ties to even."""
    wide = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype(np.uint16)


def widened(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def stored(values: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return an array as kernels store it, and the float64 values that are stored."""
    if dtype == "bfloat16":
        bits = bfloat16_bits(values)
        return bits, widened(bits).astype(np.float64)
    narrow = values.astype(dtype)
    return narrow, narrow.astype(np.float64)


def linear(
    values: np.ndarray, dtype: str = "float32", pieces: Sequence[int] = (), bias: Any = None
) -> tuple[LinearWeight, np.ndarray]:
    """Return a weight of the kernels, cut into pieces of so many rows, and its float64 values."""
    array, exact = stored(values, dtype)
    cuts = np.split(array, np.cumsum(pieces)[:-1]) if pieces else [array]
    return LinearWeight(tuple(of_array(each.copy()) for each in cuts), bias), exact


@dataclass
class Case:
    """A network of the kernels beside its float64 weights."""

    sizes: NetworkSizes
    network: NativeNetwork
    layers: list[dict[str, Any]]
    embedding: np.ndarray
    head: np.ndarray
    final_norm: np.ndarray
    angles: np.ndarray


def make_case(
    shape: NetworkSizes = ODD,
    *,
    dtype: str = "float32",
    cache_dtype: str = "float32",
    num_layers: int = 2,
    positions: int = 64,
    is_split: bool = False,
    has_after_norms: bool = False,
    num_blocks: int = 0,
    seed: int = 0,
) -> Case:
    rng = np.random.default_rng(seed)

    def values(*size: int, scale: float = 0.3) -> np.ndarray:
        return rng.normal(0, scale, size).astype(np.float32)

    def norm() -> np.ndarray:
        return (1 + values(shape.hidden)).astype(np.float32)

    heads, keys = shape.heads * shape.head_dim, shape.groups * shape.head_dim
    layers, exact = [], []
    for _ in range(num_layers):
        bias = values(heads + 2 * keys)
        qkv, qkv_exact = linear(
            values(heads + 2 * keys, shape.hidden), dtype, (heads, keys, keys) if is_split else (), bias
        )  # fmt: skip
        dense, dense_exact = linear(values(shape.hidden, heads), dtype)
        halves = (shape.ffn, shape.ffn) if is_split else ()
        gate_up, gate_up_exact = linear(values(2 * shape.ffn, shape.hidden), dtype, halves)
        down, down_exact = linear(values(shape.hidden, shape.ffn), dtype)
        norms = {"input_norm": norm(), "mlp_norm": norm()}
        if has_after_norms:
            norms |= {"after_attention": norm(), "after_mlp": norm()}
        layers.append(LayerWeights(qkv=qkv, dense=dense, gate_up=gate_up, down=down, **norms))
        matrices = {
            "qkv": qkv_exact,
            "dense": dense_exact,
            "gate_up": gate_up_exact,
            "down": down_exact,
        }
        exact.append(
            {**matrices, "bias": bias.astype(np.float64)}
            | {name: each.astype(np.float64) for name, each in norms.items()}
        )
    embedding, embedding_exact = linear(values(shape.vocab, shape.hidden, scale=1), dtype)
    head, head_exact = linear(values(shape.vocab, shape.hidden), dtype)
    final = norm()
    angles = RotaryTable(positions, shape.rotary_dim, 10000.0)
    angles.form(positions)
    network = NativeNetwork(shape, layers, embedding, head, final, angles, cache_dtype)
    if num_blocks:
        network.allocate_cache(num_blocks)
    return Case(
        shape, network, exact, embedding_exact, head_exact, final.astype(np.float64),
        angles.rows.astype(np.float64),
    )  # fmt: skip


def reference_logits(case: Case, ids: Sequence[int]) -> np.ndarray:
    """Return the logits (S, V) of one sequence in float64, written out and without a cache."""
    return reference_states(case, ids) @ case.head.T


def reference_states(case: Case, ids: Sequence[int]) -> np.ndarray:
    """Return what the final norm gives for each token, (S, H), likewise."""
    shape, rows = case.sizes, len(ids)

    def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + shape.eps) * weight

    def rotate(x: np.ndarray) -> np.ndarray:  # (S, N, D)
        out, width = x.copy(), shape.rotary_dim
        cos, sin = case.angles[:rows, None, :, 0], case.angles[:rows, None, :, 1]
        even, odd = x[..., 0:width:2], x[..., 1:width:2]
        out[..., 0:width:2], out[..., 1:width:2] = even * cos - odd * sin, odd * cos + even * sin
        return out

    hidden = case.embedding[np.asarray(ids)]  # (S, H)
    num_q, num_k, dim = shape.heads, shape.groups, shape.head_dim
    visible = np.tril(np.ones((rows, rows), bool))
    for layer in case.layers:
        qkv = rms(hidden, layer["input_norm"]) @ layer["qkv"].T + layer["bias"]
        query, key, value = np.split(qkv, [num_q * dim, (num_q + num_k) * dim], -1)
        query, key = rotate(query.reshape(rows, num_q, dim)), rotate(key.reshape(rows, num_k, dim))
        key = np.repeat(key, num_q // num_k, 1)  # (S, N, D)
        value = np.repeat(value.reshape(rows, num_k, dim), num_q // num_k, 1)
        scores = np.einsum("qnd,knd->nqk", query, key) / np.sqrt(dim)
        scores = np.where(visible, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("nqk,knd->qnd", weights, value).reshape(rows, -1)
        added = mixed @ layer["dense"].T
        hidden = hidden + (
            rms(added, layer["after_attention"]) if "after_attention" in layer else added
        )
        gate, up = np.split(rms(hidden, layer["mlp_norm"]) @ layer["gate_up"].T, 2, -1)
        added = (gate / (1 + np.exp(-gate)) * up) @ layer["down"].T
        hidden = hidden + (rms(added, layer["after_mlp"]) if "after_mlp" in layer else added)
    return rms(hidden, case.final_norm)


class Sequences:
    """Sequences that grow together in one cache; their blocks are shuffled so that none is in order."""

    def __init__(self, case: Case, count: int, longest: int, seed: int = 0):
        self.case, self.count = case, count
        self.size = case.sizes.block_size
        self.width = -(-longest // self.size)
        blocks = np.random.default_rng(seed).permutation(count * self.width + 1)
        case.network.allocate_cache(len(blocks))
        self.tables = blocks[: count * self.width].reshape(count, self.width)
        self.lengths = [0] * count

    def step(self, pieces: Sequence[tuple[int, Sequence[int]]], picked: Any = "last") -> np.ndarray:
        """Append ids to some sequences, (index, ids) each, in one call; logits of the last of each."""
        arrays = self.arrays(pieces)
        if picked == "all":
            arrays["picked"] = np.arange(len(arrays["ids"]))
        return self.case.network.run(**arrays)

    def arrays(self, pieces: Sequence[tuple[int, Sequence[int]]]) -> dict[str, np.ndarray]:
        positions, slots = [], []
        for row, ids in pieces:
            at = np.arange(self.lengths[row], self.lengths[row] + len(ids))
            self.lengths[row] += len(ids)
            positions.append(at)
            slots.append(self.tables[row][at // self.size] * self.size + at % self.size)
        rows = [row for row, _ in pieces]
        starts = np.cumsum([0, *(len(ids) for _, ids in pieces)])
        return {
            "ids": np.concatenate([np.asarray(ids) for _, ids in pieces]),
            "positions": np.concatenate(positions),
            "slots": np.concatenate(slots),
            "starts": starts,
            "lengths": np.array([self.lengths[row] for row in rows]),
            "tables": self.tables[rows],
            "picked": starts[1:] - 1,
        }
