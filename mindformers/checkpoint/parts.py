"""Tensors of which several files hold a part: what each part is, and the whole ones put together while read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mindformers.checkpoint.atomic import write_text
from mindformers.checkpoint.json_file import read_json
from mindformers.checkpoint.tensor_file import BLOCK_BYTES, StoredTensor, TensorFile
from mindformers.errors import CheckpointError

STRATEGY_FILE = "strategy.json"  # beside a rank's weights: what its tensors are of the whole ones


@dataclass(frozen=True)
class Part:
    """Some rows of a rank's tensor, or some columns of them, and where in the whole tensor they belong.

    Attributes:
        own_start: First row in the rank's tensor.
        start: First row in the whole one.
        rows: How many.
        columns: First and last column in the whole one, the last not included; None: all.
        own_column: First column in the rank's tensor.
    """

    own_start: int
    start: int
    rows: int
    columns: tuple[int, int] | None = None
    own_column: int = 0

    @property
    def place(self) -> tuple[slice, ...]:
        """Where it lies in the whole tensor."""
        rows = slice(self.start, self.start + self.rows)
        return (rows,) if self.columns is None else (rows, slice(*self.columns))

    @property
    def own_place(self) -> tuple[slice, ...]:
        """Where it lies in the rank's tensor."""
        rows = slice(self.own_start, self.own_start + self.rows)
        if self.columns is None:
            return (rows,)
        first, stop = self.columns
        return rows, slice(self.own_column, self.own_column + stop - first)

    def within(self, first: int, stop: int) -> Part | None:
        """Return what of the part lies in rows ``first`` to ``stop`` of the rank's tensor, counted from there."""
        begin, end = max(self.own_start, first), min(self.own_start + self.rows, stop)
        if begin >= end:
            return None
        moved = self.start + begin - self.own_start
        return replace(self, own_start=begin - first, start=moved, rows=end - begin)


@dataclass(frozen=True)
class Parted:
    """A rank's tensor as parts of a whole one.

    Attributes:
        shape: Axes of the whole tensor.
        parts: What this rank's tensor is made of, from the first row to the last.
    """

    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Parted:
        """Return a tensor that is the whole one."""
        rows = shape[0] if shape else 1
        return cls(tuple(shape), (Part(0, 0, rows),))

    @property
    def own_shape(self) -> tuple[int, ...]:
        """Axes of the rank's tensor."""
        rows = max(part.own_place[0].stop for part in self.parts)
        if self.parts[0].columns is None:
            return (rows, *self.shape[1:]) if self.shape else ()
        return rows, max(part.own_place[1].stop for part in self.parts)

    def cut(self, whole: np.ndarray) -> np.ndarray:
        """Return the rank's tensor of a whole one."""
        own = np.empty(self.own_shape, whole.dtype)
        for part in self.parts:
            own[part.own_place] = whole[part.place]
        return own

    def rows(self, first: int, stop: int) -> Parted:
        """Return rows ``first`` to ``stop`` of it as a rank's tensor."""
        found = (part.within(first, stop) for part in self.parts)
        return Parted(self.shape, tuple(part for part in found if part is not None))


def write_strategy(path: Path, tensors: Mapping[str, Parted]) -> None:
    """Write what a rank's tensors are of the whole ones."""
    content = {
        name: {
            "shape": list(each.shape),
            "parts": [_numbers(part) for part in each.parts],
        }
        for name, each in tensors.items()
    }
    write_text(path, json.dumps({"version": 1, "tensors": content}))


def read_strategy(path: Path) -> dict[str, Parted]:
    """Return what ``write_strategy`` wrote.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    try:
        return {
            name: Parted(
                tuple(int(axis) for axis in each["shape"]),
                tuple(_part([int(value) for value in row]) for row in each["parts"]),
            )
            for name, each in read_json(path)["tensors"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"damaged: {error!r}", where=str(path)) from error


def _numbers(part: Part) -> list[int]:
    last = [part.own_column] if part.own_column else []
    return [part.own_start, part.start, part.rows, *(part.columns or ()), *last]


def _part(row: list[int]) -> Part:
    columns = (row[3], row[4]) if len(row) > 3 else None
    return Part(row[0], row[1], row[2], columns, *row[5:6])


@dataclass(frozen=True)
class _Piece:
    file: TensorFile
    name: str
    part: Part


class JoinedFile(TensorFile):
    """Files of several ranks as one file of whole tensors, joined as they are read.

    Args:
        path: What it is called in errors.
        ranks: Every rank's file, with what its tensors are.

    Raises:
        CheckpointError: If parts of a tensor are missing, or are of different wholes.
    """

    def __init__(self, path: Path, ranks: Iterable[tuple[TensorFile, Mapping[str, Parted]]]):
        self.path, self.size, self._handle = path, 0, -1
        self.tensors: dict[str, StoredTensor] = {}
        self.metadata: dict[str, str] = {}
        self._pieces: dict[str, dict[tuple[Any, ...], _Piece]] = {}
        self._files: list[TensorFile] = []
        for file, parted in ranks:
            self._files.append(file)
            self.metadata |= file.metadata
            for name, stored in file.tensors.items():
                self._add(file, stored, parted.get(name) or Parted.whole(stored.shape))
        self._check()

    def _add(self, file: TensorFile, stored: StoredTensor, parted: Parted) -> None:
        known = self.tensors.setdefault(
            stored.name, StoredTensor(stored.name, stored.dtype, parted.shape, ())
        )
        if known.shape != parted.shape or known.dtype != stored.dtype:
            raise CheckpointError(
                f"is part of {parted.shape} {stored.dtype.name} here, of {known.shape} "
                f"{known.dtype.name} elsewhere",
                where=f"{file.path}: {stored.name}",
            )
        pieces = self._pieces.setdefault(stored.name, {})
        for part in parted.parts:  # the first of several copies is read
            key = (part.start, part.rows, part.columns)
            pieces.setdefault(key, _Piece(file, stored.name, part))

    def _check(self) -> None:
        for name, pieces in self._pieces.items():
            shape = self.tensors[name].shape
            held = sum(_cells(piece.part, shape) for piece in pieces.values())
            if held != math.prod(shape):
                raise CheckpointError(
                    f"{held} of {math.prod(shape)} elements are there",
                    where=f"{self.path}: {name}",
                    fix="copy the folders of all ranks",
                )

    def close(self) -> None:
        """Close every file."""
        for file in self._files:
            file.close()

    def __enter__(self) -> JoinedFile:
        return self

    def map_memory(self) -> np.ndarray:
        """Refuse: the tensors do not lie side by side.

        Raises:
            CheckpointError: Always.
        """
        raise CheckpointError("parts of several ranks cannot be mapped", where=str(self.path))

    def read_into(self, name: str, start_row: int, out: np.ndarray) -> None:
        """Fill ``out`` with consecutive rows of a whole tensor."""
        shape = self.tensors[name].shape
        rows = out.reshape(-1, *shape[1:])
        for piece in self._pieces[name].values():
            part = piece.part
            first = max(start_row, part.start)
            stop = min(start_row + len(rows), part.start + part.rows)
            if first < stop:
                own = first - part.start + part.own_start
                values = piece.file.read(piece.name, own, own + stop - first)
                target = rows[first - start_row : stop - start_row]
                if part.columns is None:
                    target[...] = values.reshape(target.shape)
                else:
                    target[:, part.place[1]] = values[:, part.own_place[1]]

    def read_parts(
        self, name: str, wanted: Parted
    ) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
        """Yield a rank's tensor in blocks: (where in it, values)."""
        stored = self.tensors[name]
        step = max(1, BLOCK_BYTES // max(1, stored.row_bytes))
        for part in wanted.parts:
            for first in range(0, part.rows, step):
                rows = min(step, part.rows - first)
                block = self.read(name, part.start + first, part.start + first + rows)
                own = slice(part.own_start + first, part.own_start + first + rows)
                yield (own, *part.own_place[1:]), block[(slice(None), *part.place[1:])]


def _cells(part: Part, shape: tuple[int, ...]) -> int:
    width = math.prod(shape[1:]) if part.columns is None else part.columns[1] - part.columns[0]
    return part.rows * width
