"""The compiled kernels in this process: loading them, the C structures, how many threads they use."""

from __future__ import annotations

import ctypes
import os
from ctypes import c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache

from mindformers.errors import ConfigError, DeviceError
from mindformers.logger import logger, warn_once
from mindformers.ops.native.build import build

BACKEND_VARIABLE = "MINDFORMERS_BACKEND"
THREADS_VARIABLE = "MINDFORMERS_THREADS"
BACKENDS = ("auto", "native", "portable")
DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2, "int8": 3, "int4": 4}


class PartStruct(ctypes.Structure):
    """``Part`` of types.h."""

    _fields_ = (
        ("data", c_void_p), ("scale", c_void_p), ("zero", c_void_p), ("rows", c_int64),
    )  # fmt: skip


class WeightStruct(ctypes.Structure):
    """``Weight`` of types.h."""

    _fields_ = (
        ("part", PartStruct * 3), ("rows", c_int64), ("cols", c_int64), ("bias", c_void_p),
        ("parts", c_int32), ("dtype", c_int32), ("group", c_int32),
    )  # fmt: skip


class MatrixStruct(ctypes.Structure):
    """``Matrix`` of kernels.h."""

    _fields_ = (
        ("data", c_void_p), ("step", c_int64), ("dtype", c_int32), ("is_transposed", ctypes.c_bool),
    )  # fmt: skip


class CacheStruct(ctypes.Structure):
    """``CacheLayer`` of cache.h."""

    _fields_ = tuple((name, c_void_p) for name in ("keys", "values", "key_scale", "value_scale"))


class StepStruct(ctypes.Structure):
    """``Step`` of cache.h."""

    _fields_ = (
        *((name, c_int64) for name in ("tokens", "sequences", "table_width", "outputs")),
        *(
            (name, c_void_p)
            for name in ("ids", "positions", "slots", "starts", "lengths", "tables", "picked")
        ),
    )


class ShapeStruct(ctypes.Structure):
    """``Shape`` of cache.h."""

    _fields_ = (
        *(
            (name, c_int64)
            for name in (
                "layers", "hidden", "heads", "groups", "head_dim", "rotary_dim", "ffn", "vocab",
                "block_size", "positions",
            )  # fmt: skip
        ),
        ("eps", c_float),
        ("cache_dtype", c_int32),
    )


class LayerStruct(ctypes.Structure):
    """``Layer`` of decoder.h."""

    _fields_ = (
        *(
            (name, c_void_p)
            for name in ("input_norm", "mlp_norm", "after_attention", "after_mlp")
        ),
        *((name, WeightStruct) for name in ("qkv", "dense", "gate_up", "down")),
        ("cache", CacheStruct),
    )


class NetworkStruct(ctypes.Structure):
    """``Network`` of decoder.h."""

    _fields_ = (
        ("shape", ShapeStruct), ("layers", ctypes.POINTER(LayerStruct)), ("final_norm", c_void_p),
        ("angles", c_void_p), ("embedding", WeightStruct), ("head", WeightStruct),
    )  # fmt: skip


_SIGNATURES = {
    "mf_instruction_set": ((), ctypes.c_char_p),
    "mf_use_instruction_set": ((ctypes.c_char_p,), c_int),
    "mf_threads": ((), c_int),
    "mf_set_threads": ((c_int,), None),
    "mf_gemm": (
        (c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p, c_int64, c_int), None,
    ),
    "mf_linear": ((c_void_p, c_int64, c_void_p, c_void_p, c_int64), None),
    "mf_run_step": ((c_void_p, c_void_p, c_void_p), None),
}  # fmt: skip


def open_library(path: str) -> ctypes.CDLL:
    """Load a compiled library and declare its functions.

    Raises:
        OSError: If it is none, or of another machine.
    """
    library = ctypes.CDLL(path)
    for name, (arguments, result) in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library


@cache
def kernels() -> ctypes.CDLL | None:
    """Return the kernels, or None where they cannot be had; the reason is said once."""
    try:
        library = open_library(str(build()))
    except (DeviceError, OSError) as error:
        warn_once("the CPU kernels are not used, the portable form is: %s", error)
        return None
    threads = os.environ.get(THREADS_VARIABLE, "")
    if threads:
        set_threads(int(threads), library)
    logger.info(
        "CPU kernels: %s, %d threads", library.mf_instruction_set().decode(), library.mf_threads()
    )
    return library


def required() -> ctypes.CDLL:
    """Return the kernels; for code that is only reached where they are."""
    library = kernels()
    assert library is not None
    return library


def set_threads(count: int, library: ctypes.CDLL | None = None) -> None:
    """Let the kernels use ``count`` threads, the calling one among them; 0: all this process may use.

    Raises:
        ConfigError: If ``count`` is negative or above 1024.
    """
    if not 0 <= count <= 1024:
        raise ConfigError(f"found {count}", where="threads", allowed="0 (all) to 1024")
    (library or required()).mf_set_threads(count)


_chosen = [""]


def choose_backend(name: str) -> None:
    """Set which form of the operators networks built from now on use on a CPU.

    Args:
        name: ``auto`` (native where it can be had), ``native``, ``portable``.

    Raises:
        ConfigError: If it is none of these.
        DeviceError: If ``native`` is asked for and cannot be had.
    """
    if name not in BACKENDS:
        raise ConfigError(f"found {name!r}", where="ops.backend", allowed=", ".join(BACKENDS))
    if name == "native" and kernels() is None:
        raise DeviceError(
            "the CPU kernels cannot be built or loaded", where="ops.backend: native",
            fix="see the warning above, or set ops.backend to auto",
        )  # fmt: skip
    _chosen[0] = name


def is_native() -> bool:
    """Tell whether the native form is wanted and there."""
    name = _chosen[0] or os.environ.get(BACKEND_VARIABLE, "auto")
    if name not in BACKENDS:
        raise ConfigError(f"found {name!r}", where=BACKEND_VARIABLE, allowed=", ".join(BACKENDS))
    return name != "portable" and kernels() is not None
