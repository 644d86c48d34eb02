"""Filling a network's parameters with rows of stored tensors; on a CPU in their own memory."""

from __future__ import annotations

import importlib
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mindformers.checkpoint.dtypes import BY_NAME, cast, is_finite, not_finite, plain_array
from mindformers.checkpoint.keymap import Rows, Stored, plan_tensor
from mindformers.checkpoint.quantized import Scheme, held_scales, quantize
from mindformers.checkpoint.tensor_file import BLOCK_BYTES
from mindformers.checkpoint.weight_source import WeightSource
from mindformers.logger import logger
from mindformers.parallel.heartbeat import beat

if TYPE_CHECKING:
    from mindspore import Parameter


@dataclass
class LoadReport:
    """What loading did.

    Attributes:
        source: Where the weights came from.
        tensors: Parameters filled.
        parameters: Their elements.
        casts: (stored type, parameter type) -> number of stored tensors cast.
        dropped: Stored names that are no weights and were left out.
    """

    source: str
    tensors: int = 0
    parameters: int = 0
    casts: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.tensors} tensors ({self.parameters:,} parameters) from {self.source}"
        if self.casts:
            casts = ", ".join(f"{n} {a} -> {b}" for (a, b), n in sorted(self.casts.items()))
            text += f"; cast: {casts}"
        if self.dropped:
            text += f"; left out: {len(self.dropped)} entries that are no weights"
        return text


def fill_parameters(
    parameters: Mapping[str, Parameter],
    target: Iterable[Stored],
    places: Mapping[str, Rows],
    source: WeightSource,
    dropped: tuple[str, ...] = (),
    verify: bool = True,
) -> LoadReport:
    """Fill every parameter of a layout and say once what was done.

    Args:
        parameters: Name -> parameter.
        target: The layout whose names and shapes the parameters have.
        places: Piece -> rows of ``source``.
        source: The stored weights.
        dropped: Stored names that are left out, for the report.
        verify: Refuse NaN and Inf.
    """
    report, began = LoadReport(str(source.path), dropped=dropped), time.monotonic()
    for stored in target:
        beat(f"loading {stored.name}")
        parameter = parameters[stored.name]
        plan = plan_tensor(stored, places)
        scales = parameters.get(held_scales(stored.name))
        if scales is None:
            fill_parameter(parameter, plan, source, verify)
        else:
            fill_rounded(parameter, scales, plan, source, verify)
        report.tensors += 1
        report.parameters += math.prod(stored.shape)
        for rows in plan:
            pair = (source.tensors[rows.name].dtype.name, parameter_type(parameter))
            report.casts[pair] += pair[0] != pair[1]
    report.casts = +report.casts  # drops the zero counts
    logger.info("loaded in %.1f s: %s", time.monotonic() - began, report)
    return report


def parameter_type(parameter: Any) -> str:
    """Return a parameter's element type as ``float32``, ``bfloat16`` or ``float16``."""
    return str(parameter.dtype).lower()


def fill_parameter(
    parameter: Parameter, plan: Sequence[Rows], source: WeightSource, verify: bool = True
) -> None:
    """Copy stored rows into a parameter, cast to its type.

    Args:
        parameter: Its shape is that of the planned rows, one below the other.
        plan: The rows, first rows first.
        source: Where they lie.
        verify: Refuse NaN and Inf.

    Raises:
        CheckpointError: If a value is not finite or does not fit into the parameter's type.
    """
    mindspore: Any = importlib.import_module("mindspore")
    if parameter.has_init:
        parameter.init_data()
    in_place = mindspore.get_context("device_target") == "CPU"
    # On a CPU asnumpy() is the parameter's own memory: no second copy of the weights exists.
    array = plain_array(parameter.asnumpy()) if in_place else _host_array(parameter)
    _fill_planned(array, plan, source, verify)
    if not in_place:
        host = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
        parameter.set_data(mindspore.Tensor(host, dtype=parameter.dtype))


def fill_rounded(
    values: Parameter, scales: Parameter, plan: Sequence[Rows], source: WeightSource, verify: bool
) -> None:
    """Round stored rows into a parameter of int8 or int4 and its scales; form as of ``QuantizedMatrix``.

    One matrix exists in float32 meanwhile.
    """
    mindspore: Any = importlib.import_module("mindspore")
    is_packed = str(values.dtype) == "UInt8"
    rows, cols = values.shape[0], values.shape[1] * (2 if is_packed else 1)
    scheme = Scheme(4 if is_packed else 8, cols // scales.shape[1])
    wide = np.empty((rows, cols), np.float32)
    _fill_planned(wide, plan, source, verify)
    step = max(1, BLOCK_BYTES // (4 * cols))
    parts = [quantize(wide[at : at + step], scheme, values.name) for at in range(0, rows, step)]
    values.set_data(mindspore.Tensor(np.concatenate([part.values for part in parts])))
    scales.set_data(mindspore.Tensor(np.concatenate([part.scales for part in parts])))


def dense_shape(parameters: Mapping[str, Parameter], name: str) -> tuple[int, ...]:
    """Return the axes of a weight, also of one that holds two columns in a byte."""
    shape = tuple(parameters[name].shape)
    is_packed = held_scales(name) in parameters and str(parameters[name].dtype) == "UInt8"
    return (shape[0], 2 * shape[1]) if is_packed else shape


def _host_array(parameter: Parameter) -> np.ndarray:
    return np.empty(parameter.shape, BY_NAME[parameter_type(parameter)].numpy)


def _fill_planned(
    out: np.ndarray, plan: Sequence[Rows], source: WeightSource, verify: bool
) -> None:
    """Fill ``out`` with the planned rows, one below the other."""
    position = 0
    for rows in plan:
        count = rows.stop - rows.start
        _fill_rows(out[position : position + count], rows, source, verify)
        position += count


def _fill_rows(out: np.ndarray, rows: Rows, source: WeightSource, verify: bool) -> None:
    """Fill ``out`` block by block, so that checking and casting work on data still in the cache."""
    stored = source.tensors[rows.name]
    target = BY_NAME[out.dtype.name]
    step = max(1, BLOCK_BYTES // max(1, stored.row_bytes))
    for first in range(0, len(out), step):
        part = out[first : first + step]
        if stored.dtype == target and rows.columns is None:
            block = part
            source.read_into(rows.name, rows.start + first, part)
        else:
            block = np.empty((len(part), *stored.shape[1:]), stored.dtype.numpy)
            source.read_into(rows.name, rows.start + first, block)
            block = block if rows.columns is None else block[:, slice(*rows.columns)]
        if verify and not is_finite(block):
            raise not_finite(source.where(rows.name))
        if block is not part:
            part[...] = cast(block, target, source.where(rows.name))
