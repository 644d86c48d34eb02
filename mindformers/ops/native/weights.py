"""What a network is made of as the kernels see it: its sizes, its weights where they lie, its small vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mindformers.ops.native.arrays import Buffer, as_float32
from mindformers.ops.native.library import DTYPES, PartStruct, WeightStruct


@dataclass(frozen=True)
class LinearWeight:
    """A matrix (rows, cols), its rows in up to three pieces, with an optional bias (rows,).

    Args:
        parts: The pieces, (rows_i, cols) each, all of one type: float32, bfloat16, float16; int8; or
            uint8 holding two columns each (int4), see quant.h.
        bias: (rows,) float32, or None.
        scales: For int8 and int4, per piece (rows_i, cols / group) float16.
        zeros: For asymmetric int4, per piece (rows_i, cols / group) uint8; else empty.
        compute: ``bfloat16``: what comes into a product may be rounded to it, where the CPU
            multiplies bfloat16 faster; ``float32``: never.
    """

    parts: tuple[Buffer, ...]
    bias: np.ndarray | None = None
    scales: tuple[Buffer, ...] = ()
    zeros: tuple[Buffer, ...] = ()
    compute: str = "float32"

    @property
    def rows(self) -> int:
        """Channels that go out."""
        return sum(part.shape[0] for part in self.parts)

    @property
    def dtype(self) -> str:
        """Type of the elements; ``int4`` for two to a byte."""
        return "int4" if self.parts[0].dtype == "uint8" else self.parts[0].dtype

    @property
    def cols(self) -> int:
        """Channels that come in."""
        return self.parts[0].shape[1] * (2 if self.dtype == "int4" else 1)

    def struct(self) -> WeightStruct:
        """Return the C structure; valid as long as this object lives."""
        found = WeightStruct(rows=self.rows, cols=self.cols, parts=len(self.parts))
        found.dtype, found.compute = DTYPES[self.dtype], DTYPES[self.compute]
        found.group = self.cols // self.scales[0].shape[1] if self.scales else 0
        for index, part in enumerate(self.parts):
            found.part[index] = PartStruct(
                data=part.address,
                scale=self.scales[index].address if self.scales else None,
                zero=self.zeros[index].address if self.zeros else None,
                rows=part.shape[0],
            )
        if self.bias is not None:
            found.bias = self.bias.ctypes.data
        return found


@dataclass(frozen=True)
class LayerWeights:
    """The weights of one block; norms are (hidden,) float32."""

    input_norm: np.ndarray
    mlp_norm: np.ndarray
    qkv: LinearWeight
    dense: LinearWeight
    gate_up: LinearWeight
    down: LinearWeight
    after_attention: np.ndarray | None = None
    after_mlp: np.ndarray | None = None


@dataclass(frozen=True)
class NetworkSizes:
    """Sizes of a network, as the settings of a model name them."""

    hidden: int
    heads: int
    groups: int
    head_dim: int
    rotary_dim: int
    ffn: int
    vocab: int
    eps: float
    block_size: int


class Vectors:
    """Norms and biases as the kernels take them, float32: copies, since they are small."""

    def __init__(self) -> None:
        self._copied: list[tuple[np.ndarray, Sequence[Buffer]]] = []

    def take(self, parts: Sequence[Buffer]) -> np.ndarray:
        """Return the elements of some buffers one after another, (n,) float32."""
        copy = np.concatenate([as_float32(part).reshape(-1) for part in parts])
        self._copied.append((copy, parts))
        return copy

    def refresh(self) -> None:
        """Copy all again: a training step may have changed what the buffers hold."""
        for copy, parts in self._copied:
            np.concatenate([as_float32(part).reshape(-1) for part in parts], out=copy)
