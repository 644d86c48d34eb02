"""Element types of stored tensors: names in each format, casts, and the check for NaN and Inf."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from mindformers.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class StoredType:
    """One element type.

    Attributes:
        name: Our name, as MindSpore and NumPy spell it (``bfloat16``).
        safetensors: Its name in a safetensors header.
        ckpt: Its name in a MindSpore ``.ckpt``; empty where that format has none.
        numpy: The array type that holds it.
    """

    name: str
    safetensors: str
    ckpt: str
    numpy: np.dtype

    @property
    def bytes(self) -> int:
        """Bytes of one element."""
        return int(self.numpy.itemsize)


_TYPES = tuple(
    StoredType(name, safetensors, ckpt, np.dtype(numpy))
    for name, safetensors, ckpt, numpy in (
        ("float32", "F32", "Float32", np.float32),
        ("bfloat16", "BF16", "BFloat16", ml_dtypes.bfloat16),
        ("float16", "F16", "Float16", np.float16),
        ("float64", "F64", "Float64", np.float64),
        ("int8", "I8", "Int8", np.int8),
        ("int16", "I16", "Int16", np.int16),
        ("int32", "I32", "Int32", np.int32),
        ("int64", "I64", "Int64", np.int64),
        ("uint8", "U8", "UInt8", np.uint8),
        ("uint16", "U16", "UInt16", np.uint16),
        ("uint32", "U32", "UInt32", np.uint32),
        ("uint64", "U64", "UInt64", np.uint64),
        ("bool", "BOOL", "Bool", np.bool_),
        ("float8_e4m3fn", "F8_E4M3", "", ml_dtypes.float8_e4m3fn),
        ("float8_e5m2", "F8_E5M2", "", ml_dtypes.float8_e5m2),
    )
)
BY_NAME = {entry.name: entry for entry in _TYPES}
BY_SAFETENSORS = {entry.safetensors: entry for entry in _TYPES}
BY_CKPT = {entry.ckpt: entry for entry in _TYPES if entry.ckpt}
WEIGHT_TYPES = ("float32", "bfloat16", "float16")
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
# Bits of positive infinity in the two-byte floats: all that is not finite is as large, sign aside.
_INFINITY = {"bfloat16": 0x7F80, "float16": 0x7C00}


def weight_type(name: str) -> StoredType:
    """Return the type a user names ``fp32``, ``bfloat16``, ``mindspore.float16`` ...

    Raises:
        ConfigError: If it is no type weights can have.
    """
    plain = str(name).rpartition(".")[2].lower()
    plain = _SHORT.get(plain, plain)
    if plain not in WEIGHT_TYPES:
        raise ConfigError(f"unknown weight type {name!r}", allowed="fp32, fp16 or bf16")
    return BY_NAME[plain]


def type_of(array: np.ndarray) -> StoredType:
    """Return the type of an array; MindSpore's own bfloat16 arrays count as bfloat16."""
    name = array.dtype.name
    if name not in BY_NAME:
        raise CheckpointError(f"element type {name} cannot be stored", allowed=", ".join(BY_NAME))
    return BY_NAME[name]


def plain_array(array: np.ndarray) -> np.ndarray:
    """Return ``array`` as the NumPy type of this module; no bytes are copied."""
    target = type_of(array).numpy
    return array if array.dtype == target else array.view(np.uint16).view(target)


def is_finite(array: np.ndarray) -> bool:
    """Tell whether no element is NaN or Inf; integers always are."""
    infinity = _INFINITY.get(array.dtype.name)
    if infinity is not None:  # NumPy's own test of two-byte floats is several times slower
        return array.size == 0 or _bits_are_finite(array.view(np.uint16), infinity)
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _bits_are_finite(bits: np.ndarray, infinity: int) -> bool:
    """Compare two-byte floats as whole numbers: the positive ones as signed, then the negative ones."""
    return int(bits.view(np.int16).max()) < infinity and int(bits.max()) < 0x8000 + infinity


def not_finite(where: str) -> CheckpointError:
    """Return the error for stored weights that hold NaN or Inf."""
    return CheckpointError(
        "holds NaN or Inf",
        where=where,
        fix="the file is damaged or the training that wrote it had diverged",
    )


def cast(array: np.ndarray, target: StoredType, where: str) -> np.ndarray:
    """Return ``array`` in another type, rounded to nearest even; unchanged if it has it already.

    Args:
        array: Any shape.
        target: The type to have.
        where: The tensor's name, for the error.

    Raises:
        CheckpointError: If finite values do not fit into the new type.
    """
    if array.dtype == target.numpy:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(target.numpy)
    if target.name == "float16" and not is_finite(result) and is_finite(array):
        peak = float(np.abs(array.astype(np.float32)).max())
        raise CheckpointError(
            f"value {peak:g} does not fit into float16 (largest: 65504)",
            where=where,
            fix="convert to bf16 or fp32",
        )
    return result
