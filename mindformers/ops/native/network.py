"""A whole network as the kernels see it: weights where they lie, a paged cache, one call per step."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mindformers.errors import ConfigError, DeviceError
from mindformers.ops.native.arrays import Buffer, as_float32
from mindformers.ops.native.cache_rows import copy_blocks, write_rows
from mindformers.ops.native.checks import LARGEST, check_sizes, check_weights
from mindformers.ops.native.library import (
    DTYPES,
    CacheStruct,
    LayerStruct,
    NetworkStruct,
    PartStruct,
    ShapeStruct,
    WeightStruct,
    required,
)
from mindformers.ops.native.step_check import refuse_step, step_arrays, step_struct
from mindformers.ops.rotary_table import RotaryTable

CACHE_DTYPES = ("float32", "bfloat16", "int8")
_CACHE_NUMPY = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}


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


class NativeNetwork:
    """Weights and cache of one network.

    Args:
        sizes: Its sizes.
        layers: The blocks in order.
        embedding: (vocab, hidden).
        head: (vocab, hidden).
        final_norm: (hidden,) float32.
        angles: Cos and sin of its positions, for ``rotary_dim`` channels.
        cache_dtype: ``float32``, ``bfloat16`` or ``int8``.

    Raises:
        ConfigError: If a shape does not fit the others.
    """

    def __init__(
        self,
        sizes: NetworkSizes,
        layers: Sequence[LayerWeights],
        embedding: LinearWeight,
        head: LinearWeight,
        final_norm: np.ndarray,
        angles: RotaryTable,
        cache_dtype: str = "float32",
    ):
        if cache_dtype not in CACHE_DTYPES:
            raise ConfigError(
                f"found {cache_dtype!r}", where="cache dtype", allowed=", ".join(CACHE_DTYPES)
            )
        check_sizes(sizes)
        check_weights(sizes, layers, embedding, head, final_norm)
        self.sizes, self.cache_dtype, self.num_blocks = sizes, cache_dtype, 0
        self.angles, table = angles, angles.rows
        if not table.shape[0] or table.shape[1:] != (sizes.rotary_dim // 2, 2):
            raise ConfigError(
                f"found {table.shape}",
                where="angles",
                allowed=f"(P, {sizes.rotary_dim // 2}, 2)",
            )
        self._kept = (list(layers), embedding, head, final_norm)
        # A call in another thread would find a cache that is being replaced.
        self._gate = threading.Lock()
        self._layers = (LayerStruct * len(layers))(*(_layer_struct(layer) for layer in layers))
        self._cache: list[list[np.ndarray]] = []
        shape = ShapeStruct(
            layers=len(layers), hidden=sizes.hidden, heads=sizes.heads, groups=sizes.groups,
            head_dim=sizes.head_dim, rotary_dim=sizes.rotary_dim, ffn=sizes.ffn, vocab=sizes.vocab,
            block_size=sizes.block_size, positions=len(table), eps=sizes.eps,
            cache_dtype=DTYPES[cache_dtype], compute=DTYPES[head.compute],
        )  # fmt: skip
        self._struct = NetworkStruct(
            shape=shape, layers=self._layers, final_norm=final_norm.ctypes.data,
            angles=table.ctypes.data, embedding=embedding.struct(), head=head.struct(),
        )  # fmt: skip

    def allocate_cache(self, num_blocks: int) -> None:
        """Give every layer an empty cache of ``num_blocks`` blocks; memory is taken as it is written.

        Raises:
            ConfigError: If there are none, or more than slots can be numbered.
            DeviceError: If the system has no such memory.
        """
        most = LARGEST // self.sizes.block_size
        if not 1 <= num_blocks <= most:
            raise ConfigError(f"found {num_blocks}", where="num_blocks", allowed=f"1 to {most}")
        with self._gate:
            # Were memory to run out half-way, a step would be refused for want of blocks.
            self._cache, self.num_blocks = [], 0
            try:
                self._cache = [self._layer_cache(layer, num_blocks) for layer in self._layers]
            except (MemoryError, ValueError) as error:
                raise DeviceError(
                    f"no memory for {num_blocks} blocks of {self.sizes.block_size} tokens", where="cache",
                    fix="lower num_blocks or seq_length",
                ) from error  # fmt: skip
            self.num_blocks = num_blocks

    def _layer_cache(self, layer: LayerStruct, num_blocks: int) -> list[np.ndarray]:
        sizes = self.sizes
        slots = (num_blocks, sizes.block_size, sizes.groups)
        kind = _CACHE_NUMPY[self.cache_dtype]
        width = slots if self.cache_dtype == "int8" else (1,)
        arrays = [np.zeros((*slots, sizes.head_dim), kind) for _ in range(2)]
        arrays += [np.zeros(width, np.float32) for _ in range(2)]
        layer.cache = CacheStruct(*(array.ctypes.data for array in arrays))
        return arrays

    def write_cache(self, slots: np.ndarray, past: np.ndarray) -> None:
        """Put keys and values that come from no token into slots of every layer.

        Args:
            slots: (P,), block * block_size + offset, in the cache.
            past: (layers, 2, P, groups, head_dim) float32.
        """
        with self._gate:
            for arrays, layer in zip(self._cache, past, strict=True):
                write_rows(arrays, slots, layer)

    def copy_blocks(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Copy whole blocks of every layer, (N,) each, all read before one is written."""
        with self._gate:
            copy_blocks(self._cache, sources, targets)

    def run(
        self,
        ids: np.ndarray,
        positions: np.ndarray,
        slots: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        tables: np.ndarray,
        picked: np.ndarray,
    ) -> np.ndarray:
        """Run the network on some tokens; keys and values go to the cache.

        Args:
            ids: (T,), tokens of all sequences, those of one side by side.
            positions: (T,).
            slots: (T,), block * block_size + offset.
            starts: (B + 1,), first token of each sequence, then T.
            lengths: (B,), cached tokens of each once these are written.
            tables: (B, W), blocks of each in order.
            picked: (R,), tokens whose logits are wanted.

        Returns:
            (R, V) float32.

        Raises:
            ConfigError: If a number lies outside the vocabulary, the positions or the cache.
        """
        arrays = step_arrays((ids, positions, slots, starts, lengths, tables, picked))
        step, library = step_struct(arrays), required()
        network, call = ctypes.addressof(self._struct), ctypes.addressof(step)
        logits = np.empty((step.outputs, self.sizes.vocab), np.float32)
        with self._gate:
            fault = library.mf_check_step(network, call, self.num_blocks)
            if fault:
                sizes, rows = self.sizes, len(self.angles.rows)
                refuse_step(fault, arrays, (sizes.vocab, rows, self.num_blocks, sizes.block_size))
            self.angles.form(int(arrays[1].max()) + 1)
            library.mf_run_step(network, call, logits.ctypes.data)
        return logits

    def twin(self) -> NativeNetwork:
        """Return a network with the same weights, in the same place, and a cache of its own."""
        return NativeNetwork(self.sizes, *self._kept, self.angles, self.cache_dtype)

    def hold(self) -> list[Any]:
        """Return what keeps the weights where they are now, even if a parameter is given other memory."""
        layers, *tables, _ = self._kept
        linear = [getattr(each, name) for each in layers for name in _LINEAR] + tables
        return [part.hold() for weight in linear for part in weight.parts]


_LINEAR = ("qkv", "dense", "gate_up", "down")


def _layer_struct(layer: LayerWeights) -> LayerStruct:
    def pointer(array: np.ndarray | None) -> int | None:
        return None if array is None else array.ctypes.data

    return LayerStruct(
        input_norm=pointer(layer.input_norm), mlp_norm=pointer(layer.mlp_norm),
        after_attention=pointer(layer.after_attention), after_mlp=pointer(layer.after_mlp),
        qkv=layer.qkv.struct(), dense=layer.dense.struct(), gate_up=layer.gate_up.struct(),
        down=layer.down.struct(),
    )  # fmt: skip
