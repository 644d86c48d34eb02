"""The compiled kernels in this process: loading them, the C structures, how many threads they use."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from ctypes import c_float, c_int, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

from mindformers.errors import ConfigError, DeviceError
from mindformers.logger import logger, warn_once
from mindformers.ops.native.build import build
from mindformers.ops.native.cpus import MOST_THREADS, wanted_threads
from mindformers.ops.native.train_abi import TRAIN_SIGNATURES

BACKEND_VARIABLE = "MINDFORMERS_BACKEND"
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
        ("parts", c_int32), ("dtype", c_int32), ("group", c_int32), ("compute", c_int32),
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
        *((name, c_int64) for name in ("tokens", "sequences", "table_width", "outputs", "keeps")),
        *(
            (name, c_void_p)
            for name in (
                "ids",
                "positions",
                "slots",
                "starts",
                "lengths",
                "tables",
                "picked",
                "kept",
            )
        ),
    )


class ShapeStruct(ctypes.Structure):
    """``Shape`` of cache.h."""

    _fields_ = (
        *(
            (name, c_int64)
            for name in (
                "layers",
                "hidden",
                "heads",
                "groups",
                "head_dim",
                "rotary_dim",
                "ffn",
                "vocab",
                "block_size",
                "positions",
            )
        ),
        ("eps", c_float),
        ("cache_dtype", c_int32),
        ("compute", c_int32),
    )


class LayerStruct(ctypes.Structure):
    """``Layer`` of decoder.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("input_norm", "mlp_norm", "after_attention", "after_mlp")),
        *((name, WeightStruct) for name in ("qkv", "dense", "gate_up", "down")),
        ("cache", CacheStruct),
    )


class NetworkStruct(ctypes.Structure):
    """``Network`` of decoder.h."""

    _fields_ = (
        ("shape", ShapeStruct), ("layers", ctypes.POINTER(LayerStruct)), ("final_norm", c_void_p),
        ("angles", c_void_p), ("embedding", WeightStruct), ("head", WeightStruct),
    )  # fmt: skip


_SIGNATURES: dict[str, tuple[tuple[Any, ...], Any]] = {
    "mf_instruction_set": ((), ctypes.c_char_p),
    "mf_use_instruction_set": ((ctypes.c_char_p,), c_int),
    "mf_threads": ((), c_int),
    "mf_set_threads": ((c_int,), None),
    "mf_check_step": ((c_void_p, c_void_p, c_int64), c_int),
}
# Those that compute; they return 0, or 1 when there was no memory.
_KERNELS: dict[str, tuple[Any, ...]] = {
    "mf_gemm": (c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p, c_int64, c_int),
    "mf_linear": (c_void_p, c_int64, c_void_p, c_void_p, c_int64),
    "mf_run_step": (c_void_p, c_void_p, c_void_p, c_void_p),
    "mf_sharpen": (c_void_p, c_int64, c_float, c_int64, ctypes.c_double),
}


def open_library(path: str | Path) -> ctypes.CDLL:
    """Load a compiled library, declare its functions and try it.

    Raises:
        DeviceError: If it is none, is one of another machine or other sources, or computes wrong numbers.
    """
    try:
        library = ctypes.CDLL(str(path))
        for name, (arguments, result) in {**_SIGNATURES, **TRAIN_SIGNATURES}.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, result
        for name, arguments in _KERNELS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, c_int
        for name in [
            *_KERNELS,
            *(name for name, (_, result) in TRAIN_SIGNATURES.items() if result is c_int),
        ]:
            getattr(library, name).errcheck = _refuse_failure
    except (OSError, AttributeError) as error:
        raise DeviceError(f"{path} cannot be loaded: {error}") from error
    if not library.mf_instruction_set():
        raise DeviceError(f"{path} holds no instruction set of this CPU")
    return library


def _refuse_failure(result: int, function: Callable[..., int], arguments: Any) -> int:
    if result:
        raise DeviceError(
            "not enough memory for a kernel", fix="take fewer or shorter rows at once"
        )
    return result


_gate = threading.Lock()
_opened: list[ctypes.CDLL | None] = []


def kernels() -> ctypes.CDLL | None:
    """Return the kernels, or None where they cannot be had; the reason is said once.

    Raises:
        ConfigError: If an environment variable that concerns them holds what it cannot.
    """
    if not _opened:
        with _gate:
            if not _opened:
                _opened.append(_open_or_say_why())
    return _opened[0]


def _open_or_say_why() -> ctypes.CDLL | None:
    from mindformers.ops.native.self_test import refuse_wrong_numbers

    threads = _threads[0] or wanted_threads()
    try:
        library = _load()
        library.mf_set_threads(threads)
        refuse_wrong_numbers(library)
    except DeviceError as error:
        warn_once("the CPU kernels are not used, the slower portable form is: %s", error)
        return None
    logger.info("CPU kernels: %s, %d threads", library.mf_instruction_set().decode(), threads)
    return library


def _load() -> ctypes.CDLL:
    path = build()
    try:
        return open_library(path)
    except DeviceError as error:
        logger.info("compiling the CPU kernels again: %s", error)
    return open_library(build(is_fresh=True))


def required() -> ctypes.CDLL:
    """Return the kernels; for code that is only reached where they are."""
    library = kernels()
    assert library is not None
    return library


_threads = [0]


def set_threads(count: int) -> None:
    """Let the kernels use ``count`` threads, the calling one among them.

    Args:
        count: 0: what ``MINDFORMERS_THREADS`` says, without it all CPUs this process may use.

    Raises:
        ConfigError: If ``count`` is no whole number from 0 to 1024.
    """
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST_THREADS:
        raise ConfigError(
            f"found {count!r}",
            where="threads",
            allowed=f"a whole number, 0 (all) to {MOST_THREADS}",
        )
    _threads[0] = count
    if _opened and _opened[0]:
        _opened[0].mf_set_threads(count or wanted_threads())


_chosen = ["auto"]


def choose_backend(name: str) -> None:
    """Set which form of the operators networks built from now on use on a CPU.

    Args:
        name: ``native``; ``portable``; ``auto``: what ``MINDFORMERS_BACKEND`` says, without it native where
            that can be had.

    Raises:
        ConfigError: If it is none of these.
        DeviceError: If ``native`` is asked for and cannot be had.
    """
    _refuse_unknown(name, "ops.backend")
    if name == "native":
        _refuse_missing("ops.backend")
    _chosen[0] = name


def is_native() -> bool:
    """Tell whether the native form is wanted and there.

    Raises:
        ConfigError: If ``MINDFORMERS_BACKEND`` is no form.
        DeviceError: If it asks for ``native``, which cannot be had.
    """
    name = _chosen[0]
    if name == "auto":
        name = os.environ.get(BACKEND_VARIABLE) or "auto"
        _refuse_unknown(name, BACKEND_VARIABLE)
        if name == "native":
            _refuse_missing(BACKEND_VARIABLE)
    return name != "portable" and kernels() is not None


def _refuse_unknown(name: str, where: str) -> None:
    if name not in BACKENDS:
        raise ConfigError(f"found {name!r}", where=where, allowed=", ".join(BACKENDS))


def _refuse_missing(where: str) -> None:
    if kernels() is None:
        raise DeviceError(
            "native, but the CPU kernels cannot be built or loaded", where=where,
            allowed="auto or portable here", fix="see the warning above for the reason",
        )  # fmt: skip
