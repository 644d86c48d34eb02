"""A whole network as the kernels see it: weights where they lie, a paged cache, one call per step."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from mindformers.errors import ConfigError, DeviceError
from mindformers.ops.native.cache_rows import copy_blocks, write_rows
from mindformers.ops.native.checks import LARGEST, check_sizes, check_weights
from mindformers.ops.native.library import (
    DTYPES,
    CacheStruct,
    LayerStruct,
    NetworkStruct,
    ShapeStruct,
    required,
)
from mindformers.ops.native.step_check import refuse_step, step_arrays, step_struct
from mindformers.ops.native.weights import LayerWeights, LinearWeight, NetworkSizes
from mindformers.ops.rotary_table import RotaryTable

CACHE_DTYPES = ("float32", "bfloat16", "int8")
_CACHE_NUMPY = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}


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
        none = np.empty(0, np.int32)
        return self.run_keeping(ids, positions, slots, starts, lengths, tables, picked, none)[0]

    def run_keeping(
        self,
        ids: np.ndarray,
        positions: np.ndarray,
        slots: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        tables: np.ndarray,
        picked: np.ndarray,
        kept: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run the network as ``run`` does, and keep the hidden states of some tokens.

        Args:
            ids: As for ``run``, and so on to ``picked``.
            positions: (T,).
            slots: (T,).
            starts: (B + 1,).
            lengths: (B,).
            tables: (B, W).
            picked: (R,).
            kept: (K,), tokens whose hidden states are wanted; they may be picked too.

        Returns:
            The logits, (R, V) float32, and what comes of the final norm, (K, H) float32.

        Raises:
            ConfigError: As ``run``.
        """
        arrays = step_arrays((ids, positions, slots, starts, lengths, tables, picked, kept))
        step, library = step_struct(arrays), required()
        network, call = ctypes.addressof(self._struct), ctypes.addressof(step)
        logits = np.empty((step.outputs, self.sizes.vocab), np.float32)
        states = np.empty((step.keeps, self.sizes.hidden), np.float32)
        with self._gate:
            fault = library.mf_check_step(network, call, self.num_blocks)
            if fault:
                sizes, rows = self.sizes, len(self.angles.rows)
                refuse_step(fault, arrays, (sizes.vocab, rows, self.num_blocks, sizes.block_size))
            self.angles.form(int(arrays[1].max()) + 1)
            library.mf_run_step(network, call, logits.ctypes.data, states.ctypes.data)
        return logits, states

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
