"""Between two layouts of the same weights: which rows of which stored tensor make up another one.

A layout is a list of stored tensors. Each is one or more pieces, one below the other along the
first axis; a piece has the same name in every layout. To convert is then: for every stored tensor
of the target layout, take its pieces' rows from wherever the source layout keeps them. Fused, split
and renamed weights need no code of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from mindformers.errors import did_you_mean

MAX_TABLE_ROWS = 12


@dataclass(frozen=True)
class Piece:
    """The smallest part of the weights that layouts move as a whole.

    Attributes:
        name: The same in every layout.
        shape: (rows, ...) or (rows,).
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """A tensor of a layout: its name in files and its pieces, first rows first."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's axes."""
        return (sum(piece.shape[0] for piece in self.pieces), *self.pieces[0].shape[1:])


@dataclass(frozen=True)
class Rows:
    """Rows ``start`` to ``stop`` of the stored tensor ``name``; of these the ``columns``, or all (None)."""

    name: str
    start: int
    stop: int
    columns: tuple[int, int] | None = None


ReadBlocks = Callable[[str, int, int], Iterable[NDArray[Any]]]


def count_elements(layout: Iterable[Stored]) -> int:
    """Return the number of parameters of a layout."""
    return sum(math.prod(stored.shape) for stored in layout)


def locate_pieces(layout: Iterable[Stored]) -> dict[str, Rows]:
    """Return where each piece lies in a layout: piece name -> rows of a stored tensor."""
    places = {}
    for stored in layout:
        start = 0
        for piece in stored.pieces:
            stop = start + piece.shape[0]
            places[piece.name] = Rows(stored.name, start, stop)
            start = stop
    return places


def plan_tensor(target: Stored, places: Mapping[str, Rows]) -> list[Rows]:
    """Return the source rows that make up ``target``, in order; neighbouring ranges are merged."""
    plan: list[Rows] = []
    for piece in target.pieces:
        rows = places[piece.name]
        last = plan[-1] if plan else None
        if last is not None and last == replace(rows, start=last.start, stop=rows.start):
            plan[-1] = replace(last, stop=rows.stop)
        else:
            plan.append(rows)
    return plan


def assemble(plan: Sequence[Rows], read_blocks: ReadBlocks) -> Iterator[NDArray[Any]]:
    """Yield the bytes of a planned tensor as consecutive blocks of rows.

    Args:
        plan: From ``plan_tensor``.
        read_blocks: (name, start, stop) -> blocks of those rows.
    """
    for rows in plan:
        for block in read_blocks(rows.name, rows.start, rows.stop):
            yield block if rows.columns is None else block[:, slice(*rows.columns)]


@dataclass(frozen=True)
class Differences:
    """What keeps a set of found tensors from being a layout.

    Attributes:
        missing: Names the layout has and the set has not.
        unexpected: Names the set has and the layout has not.
        misshaped: (name, expected shape, found shape).
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    def summary(self) -> str:
        """Return one line: how many of each."""
        parts = [
            f"{len(names)} {kind}"
            for kind, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", self.misshaped),
            )
            if names
        ]
        return ", ".join(parts)

    def table(self) -> str:
        """Return the lines of a table: name, what was expected, what was found, nearest names."""
        lines: list[tuple[str, str, str]] = []
        for name in self.missing[:MAX_TABLE_ROWS]:
            hint = did_you_mean(name, self.unexpected)
            lines.append((name, "present", "missing" + (f" ({hint})" if hint else "")))
        for name, expected, found in self.misshaped[:MAX_TABLE_ROWS]:
            lines.append((name, str(list(expected)), str(list(found))))
        for name in self.unexpected[:MAX_TABLE_ROWS]:
            lines.append((name, "absent", "present"))
        left = sum(
            max(0, len(kind) - MAX_TABLE_ROWS)
            for kind in (self.missing, self.misshaped, self.unexpected)
        )
        width = max(len("name"), *(len(line[0]) for line in lines))
        middle = max(len("expected"), *(len(line[1]) for line in lines))
        text = [f"  {'name':{width}}  {'expected':{middle}}  found"]
        text += [f"  {name:{width}}  {want:{middle}}  {got}" for name, want, got in lines]
        if left:
            text.append(f"  ... and {left} more")
        return "\n".join(text)


def compare_shapes(
    layout: Iterable[Stored], found: Mapping[str, tuple[int, ...]], optional: Iterable[str] = ()
) -> Differences:
    """Compare a layout with the shapes found.

    Args:
        layout: What should be there.
        found: Name -> shape.
        optional: Names of the layout that may be absent.
    """
    expected = {stored.name: stored.shape for stored in layout}
    may_lack = set(optional)
    return Differences(
        tuple(name for name in expected if name not in found and name not in may_lack),
        tuple(name for name in found if name not in expected),
        tuple(
            (name, shape, tuple(found[name]))
            for name, shape in expected.items()
            if name in found and tuple(found[name]) != shape
        ),
    )
