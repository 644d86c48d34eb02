"""What a network must be like so that no kernel leaves its buffers; asked once, when it is built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mindformers.errors import ConfigError
from mindformers.ops.native.arrays import ITEM_BYTES, Buffer

if TYPE_CHECKING:
    from mindformers.ops.native.weights import LayerWeights, LinearWeight, NetworkSizes

MOST_PARTS = 3
LARGEST = 2**31 - 1  # ids, positions and slots are int32
_FLOATS = ("float32", "bfloat16", "float16")
_STEP = 32  # columns of quantized weights that are taken at once


def check_sizes(sizes: NetworkSizes) -> None:
    """Refuse sizes no network can have.

    Raises:
        ConfigError: If one is not a whole number in its range, or they do not fit one another.
    """
    for name in ("hidden", "heads", "groups", "head_dim", "ffn", "vocab", "block_size"):
        value = getattr(sizes, name)
        if not isinstance(value, (int, np.integer)) or not 1 <= value <= LARGEST:
            raise ConfigError(f"found {value!r}", where=name, allowed=f"1 to {LARGEST}")
    if sizes.heads % sizes.groups:
        raise ConfigError(
            f"{sizes.heads} heads in {sizes.groups} groups", allowed="groups that divide them"
        )
    rotary = sizes.rotary_dim
    is_count = isinstance(rotary, (int, np.integer))
    if not is_count or not 0 <= rotary <= sizes.head_dim or rotary % 2:
        raise ConfigError(
            f"found {rotary!r}", where="rotary_dim", allowed=f"even, 0 to {sizes.head_dim}"
        )
    if not (math.isfinite(sizes.eps) and sizes.eps >= 0):
        raise ConfigError(f"found {sizes.eps}", where="eps", allowed="0 or more")


def check_weights(
    sizes: NetworkSizes,
    layers: Sequence[LayerWeights],
    embedding: LinearWeight,
    head: LinearWeight,
    final_norm: np.ndarray,
) -> None:
    """Refuse weights of another shape than the sizes ask for, or that cannot be read where they lie.

    Raises:
        ConfigError: With the name of the weight.
    """
    if not layers:
        raise ConfigError("a network without layers", allowed="1 or more")
    heads = sizes.heads * sizes.head_dim
    wanted = {
        "qkv": (heads + 2 * sizes.groups * sizes.head_dim, sizes.hidden),
        "dense": (sizes.hidden, heads),
        "gate_up": (2 * sizes.ffn, sizes.hidden),
        "down": (sizes.hidden, sizes.ffn),
    }
    for index, layer in enumerate(layers):
        for name, shape in wanted.items():
            check_linear(f"layer {index}, {name}", getattr(layer, name), shape)
        for name in ("input_norm", "mlp_norm", "after_attention", "after_mlp"):
            norm = getattr(layer, name)
            if norm is not None or name in ("input_norm", "mlp_norm"):
                check_vector(f"layer {index}, {name}", norm, sizes.hidden)
    for name, weight in (("embedding", embedding), ("head", head)):
        check_linear(name, weight, (sizes.vocab, sizes.hidden))
    check_vector("final norm", final_norm, sizes.hidden)


def check_linear(where: str, weight: LinearWeight, shape: tuple[int, int]) -> None:
    """Refuse a matrix of another shape, or whose pieces are not alike.

    Raises:
        ConfigError: With ``where``.
    """
    if not 1 <= len(weight.parts) <= MOST_PARTS:
        raise ConfigError(f"{len(weight.parts)} pieces", where=where, allowed=f"1 to {MOST_PARTS}")
    for part in weight.parts:
        if len(part.shape) != 2 or part.dtype != weight.parts[0].dtype or part.dtype == "int32":
            raise ConfigError(
                f"{part.dtype} {part.shape}",
                where=where,
                allowed="two axes, one type in all pieces",
            )
        _check_buffer(where, part)
    if (weight.rows, weight.cols) != shape or len({part.shape[1] for part in weight.parts}) > 1:
        found = [part.shape for part in weight.parts]
        raise ConfigError(f"found {found}", where=where, allowed=f"{shape} in all")
    if weight.bias is not None:
        check_vector(f"{where}, bias", weight.bias, weight.rows)
    if weight.dtype in _FLOATS:
        _refuse_extra(where, weight)
    else:
        _check_scales(where, weight)


def _refuse_extra(where: str, weight: LinearWeight) -> None:
    if weight.scales or weight.zeros:
        raise ConfigError(f"{weight.dtype} with scales", where=where, allowed="int8 or int4")


def _check_scales(where: str, weight: LinearWeight) -> None:
    """Refuse quantized weights without scales, or with those of another group size."""
    if len(weight.scales) != len(weight.parts) or len(weight.zeros) not in (0, len(weight.parts)):
        raise ConfigError(
            f"{len(weight.parts)} pieces with {len(weight.scales)} scales and {len(weight.zeros)} zeros",
            where=where, allowed="scales for each piece, zeros for each or none",
        )  # fmt: skip
    if weight.zeros and weight.dtype != "int4":
        raise ConfigError(f"{weight.dtype} with zeros", where=where, allowed="zeros with int4")
    if weight.cols % _STEP:
        raise ConfigError(f"{weight.cols} columns", where=where, allowed=f"a multiple of {_STEP}")
    groups = weight.scales[0].shape[-1] if weight.scales[0].shape else 0
    if not groups or weight.cols % (groups * _STEP):
        raise ConfigError(
            f"{groups} scales for {weight.cols} columns", where=where,
            allowed=f"one for each group, a multiple of {_STEP} that divides the row",
        )  # fmt: skip
    for part, scale in zip(weight.parts, weight.scales, strict=True):
        _check_like(f"{where}, scales", scale, "float16", (part.shape[0], groups))
    for part, zero in zip(weight.parts, weight.zeros, strict=bool(weight.zeros)):
        _check_like(f"{where}, zeros", zero, "uint8", (part.shape[0], groups))


def _check_like(where: str, buffer: Buffer, dtype: str, shape: tuple[int, int]) -> None:
    if (buffer.dtype, tuple(buffer.shape)) != (dtype, shape):
        raise ConfigError(f"{buffer.dtype} {buffer.shape}", where=where, allowed=f"{dtype} {shape}")
    _check_buffer(where, buffer)


def _check_buffer(where: str, buffer: Buffer) -> None:
    size = ITEM_BYTES.get(buffer.dtype)
    if size is None:
        raise ConfigError(f"found {buffer.dtype}", where=where, allowed=", ".join(ITEM_BYTES))
    if any(axis < 1 for axis in buffer.shape):
        raise ConfigError(f"found {buffer.shape}", where=where, allowed="1 or more in each axis")
    if not buffer.address or buffer.address % size:
        raise ConfigError(
            f"{buffer.dtype} at address {buffer.address}",
            where=where,
            allowed=f"a multiple of {size}",
        )


def check_vector(where: str, array: np.ndarray, size: int) -> None:
    """Refuse anything but ``size`` floats side by side.

    Raises:
        ConfigError: With ``where``.
    """
    check_array(where, array, (size,))


def check_array(where: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse anything but float32 of this shape in row-major order.

    Raises:
        ConfigError: With ``where``.
    """
    is_array = isinstance(array, np.ndarray)
    if not is_array or array.dtype != np.float32 or array.shape != shape:
        found = f"{array.dtype} {array.shape}" if is_array else type(array).__name__
        raise ConfigError(f"found {found}", where=where, allowed=f"float32 {shape}")
    if not (array.flags.c_contiguous and array.flags.aligned):
        raise ConfigError(
            "elements that are not side by side", where=where, allowed="row-major order"
        )
