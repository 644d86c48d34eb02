"""Which form of the operators is active on this device. Asked once, when a network is built."""

from __future__ import annotations

from typing import Literal

import mindspore as ms

from mindformers.logger import warn_once
from mindformers.ops.native.library import is_native

Backend = Literal["portable", "native", "ascend"]

_DTYPES = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}


def active_backend() -> Backend:
    """Return the form of the operators for this device.

    ``"ascend"`` on an NPU; on a CPU ``"native"`` (our own kernels) where they can be had and are wanted,
    else ``"portable"`` (composed of operators every device has).
    """
    if ms.get_context("device_target") == "Ascend":
        return "ascend"
    return "native" if is_native() else "portable"


def cell_backend() -> Backend:
    """Return the form of the operators that are cells, run by MindSpore forward and backward.

    As ``active_backend``, but ``"portable"`` where MindSpore compiles graphs: our kernels are called from
    Python, which a graph cannot hold.
    """
    backend = active_backend()
    if backend == "native" and ms.get_context("mode") == ms.GRAPH_MODE:
        return "portable"
    return backend


def storage_dtype(name: str) -> ms.dtype.Type:
    """Return the MindSpore type a configuration names (``float32``, ``bfloat16``, ``float16``)."""
    return _DTYPES[name]


def compute_dtype(name: str) -> ms.dtype.Type:
    """Return the type arithmetic runs in: what was asked for on an NPU, always float32 on a CPU.

    MindSpore's CPU backend refuses bfloat16 in nearly every operator and gains nothing from float16.
    """
    if active_backend() != "ascend" and name != "float32":
        warn_once("compute in %s was asked for; a CPU computes in float32", name)
        return ms.float32
    return _DTYPES[name]
