"""Which base weights an adapter was trained on: a short mark of them, the same in every layout and type."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any

import numpy as np
from mindspore import Tensor

from mindformers.checkpoint.keymap import Stored
from mindformers.checkpoint.parts import Part
from mindformers.checkpoint.quantized import BITS, held_scales, usual_group
from mindformers.errors import CheckpointError
from mindformers.parallel.mesh import mesh

SAMPLES = 4096  # of each piece, evenly spaced: reading all of 9 billion weights would take a minute
_MOST_AT_ONCE = 2**20  # values in a message


def base_mark(network: Any) -> str:
    """Return a mark of a network's weights without adapters, 64 hex digits.

    It is taken over evenly spaced values of every piece of every weight. Another finetuning of the
    same model has another mark; so has the same model rounded to another type.
    """
    samples = _samples(network)
    if not mesh().layout.is_single:
        samples = _joined(samples)
    digest = hashlib.sha256()
    for name in sorted(samples):  # layouts list the pieces in different orders
        digest.update(name.encode() + hashlib.sha256(samples[name].astype("<f4").data).digest())
    return digest.hexdigest()


def _samples(network: Any) -> dict[str, np.ndarray]:
    """Return evenly spaced values of every piece, float32; -inf where this process does not hold them."""
    parameters, shares = network.weight_parameters(), {}
    if not mesh().layout.is_single:
        shares = network.weight_parts()
    kind = getattr(network.config.pet, "base_quantization", None)
    found: dict[str, np.ndarray] = {}
    for stored in network.layout_tensors():
        is_rounded = kind is not None and len(stored.shape) == 2 and _is_in_layer(stored)
        for name, width in _held(stored, kind if is_rounded else None):
            parameter = parameters.get(name)
            array: Any = (
                None if parameter is None else parameter.asnumpy()
            )  # a copy on an NPU: once
            first = 0
            for index, piece in enumerate(stored.pieces):
                part: Part | None = Part(first, first, piece.shape[0])
                if shares:
                    part = shares[stored.name].parts[index] if stored.name in shares else None
                columns = math.prod(piece.shape[1:]) // width
                size = piece.shape[0] * columns
                places = np.arange(0, size, -(-size // SAMPLES))
                values = np.full(len(places), -np.inf, np.float32)
                if part is not None:
                    _fill_held(
                        values, array, _moved(part, first, width), np.divmod(places, columns)
                    )
                before = found.get(piece.name, values[:0])
                found[piece.name] = np.concatenate([before, values])
                first += piece.shape[0]
    return found


def _is_in_layer(stored: Stored) -> bool:
    return stored.pieces[0].name[0].isdigit()


def _held(stored: Stored, kind: str | None) -> list[tuple[str, int]]:
    """Return the tensors a weight is held in, and how many columns an element of each stands for."""
    if kind is None:
        return [(stored.name, 1)]
    bits = BITS[kind]
    group = usual_group(bits, {stored.shape[1]})
    return [(stored.name, 8 // bits), (held_scales(stored.name), group)]


def _moved(part: Part, first: int, width: int) -> Part:
    """Return a part as of a tensor that begins at row ``first``, each element of which stands for ``width`` columns."""
    columns = part.columns and (part.columns[0] // width, part.columns[1] // width)
    return replace(part, start=part.start - first, columns=columns)


def _fill_held(
    values: np.ndarray, array: np.ndarray, part: Part, places: tuple[np.ndarray, np.ndarray]
) -> None:
    """Put the values a process holds of a piece in their places.

    Args:
        values: One for each place.
        array: The process's tensor.
        part: Which of its rows are part of the piece, and where in the piece.
        places: Rows and columns of the piece.
    """
    rows = array[part.own_start : part.own_start + part.rows].reshape(part.rows, -1)
    left, right = part.columns or (0, rows.shape[1])
    row, column = places[0] - part.start, places[1] - left
    is_held = (row >= 0) & (row < part.rows) & (column >= 0) & (column < right - left)
    values[is_held] = rows[row[is_held], column[is_held]].astype(np.float32)


def _joined(samples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the values of all processes that hold one copy of the network."""
    flat = np.concatenate(list(samples.values()))
    group = mesh().model
    parts = [
        group.all_reduce(Tensor(flat[start : start + _MOST_AT_ONCE]), "max").asnumpy()
        for start in range(0, len(flat), _MOST_AT_ONCE)
    ]
    ends = np.cumsum([len(each) for each in samples.values()])[:-1]
    return dict(zip(samples, np.split(np.concatenate(parts), ends), strict=True))


def check_base(network: Any, mark: str | None, where: str) -> None:
    """Refuse adapters that were trained on other weights than the network has.

    Args:
        network: The network, its weights loaded.
        mark: What ``base_mark`` gave when the adapters were saved; None: not known.
        where: The adapters, for the error.

    Raises:
        CheckpointError: If the marks differ.
    """
    if mark is not None and mark != base_mark(network):
        raise CheckpointError(
            "the adapters were trained on other weights than the network holds",
            where=where,
            fix="load the weights they were trained on, in the same type (param_init_type) and not quantized",
        )
