"""A table of weight names in several styles, and the layouts that follow from it.

A family writes one ``NameTable``: for each stored tensor its pieces and its name in every style.
Listing the tensors of a layout and finding out which layout some names are in is the same for all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mindformers.checkpoint.keymap import Piece, Rows, Stored
from mindformers.errors import CheckpointError


class Row(NamedTuple):
    """One stored tensor of a table.

    Attributes:
        form: "" when every layout has it; else the form a layout must have chosen, as ``qkv``.
        pieces: What it is made of, first rows first.
        names: Its name in each style; within a layer, without the layer's prefix.
    """

    form: str
    pieces: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """A style of names with one form chosen of each alternative.

    Attributes:
        style: One of the table's styles.
        forms: The chosen forms.
    """

    style: str
    forms: tuple[str, ...]


@dataclass(frozen=True)
class NameTable:
    """The names of a family's weights.

    Attributes:
        styles: Names of the styles, in the order of ``Row.names``.
        prefixes: What stands before a name within layer ``{}``, in each style.
        alternatives: Forms that exclude one another; the first of each is the usual one.
        outer: Tensors outside the layers; the first stands before them, the rest after.
        inner: Tensors of one layer.
    """

    styles: tuple[str, ...]
    prefixes: tuple[str, ...]
    alternatives: tuple[tuple[str, ...], ...]
    outer: tuple[Row, ...]
    inner: tuple[Row, ...]

    def stored_tensors(
        self,
        layout: Layout,
        outer_shapes: Mapping[str, tuple[int, ...]],
        inner_shapes: Mapping[str, tuple[int, ...]],
        num_layers: int,
    ) -> list[Stored]:
        """Return every tensor of a layout; rows whose pieces have no shape are left out."""
        column = self.styles.index(layout.style)
        forms = ("", *layout.forms)
        prefix = self.prefixes[column]
        edge = [
            Stored(row.names[column], tuple(Piece(name, outer_shapes[name]) for name in row.pieces))
            for row in self.outer
        ]
        layers = [
            Stored(
                prefix.format(index) + row.names[column],
                tuple(Piece(f"{index}.{name}", inner_shapes[name]) for name in row.pieces),
            )
            for index in range(num_layers)
            for row in self.inner
            if row.form in forms and row.pieces[0] in inner_shapes
        ]
        return [edge[0], *layers, *edge[1:]]

    def names_of(self, style: str, form: str | None = None) -> set[str]:
        """Return a style's names with ``{}`` for the layer; those of one form, or all."""
        column = self.styles.index(style)
        prefix = self.prefixes[column]
        inner = {prefix + row.names[column] for row in self.inner if form in (None, row.form)}
        return inner | ({row.names[column] for row in self.outer} if form is None else set())

    def fusions(self, style: str) -> dict[tuple[str, ...], str]:
        """Return which tensors of a layer may be fused: names of the parts -> name of the whole."""
        column = self.styles.index(style)
        alone = {row.pieces[0]: row.names[column] for row in self.inner if len(row.pieces) == 1}
        return {
            tuple(alone[piece] for piece in row.pieces): row.names[column]
            for row in self.inner
            if len(row.pieces) > 1
        }

    def detect(self, names: Iterable[str], where: str = "") -> Layout:
        """Return the layout that tensors with these names are in.

        Args:
            names: The stored names.
            where: The source, for errors.

        Raises:
            CheckpointError: If none of the names is in the table.
        """
        found = {re.sub(r"\.layers\.\d+\.", ".layers.{}.", name) for name in names}
        scores = {style: len(found & self.names_of(style)) for style in self.styles}
        style = max(scores, key=lambda name: scores[name])
        if not scores[style]:
            raise CheckpointError(
                f"none of its {len(found)} kinds of tensors has the name of a weight we know "
                f"(found: {', '.join(sorted(found)[:3])})",
                where=where,
            )
        forms = []
        for choices in self.alternatives:
            present = [form for form in choices if found & self.names_of(style, form)]
            forms.append((present or choices)[0])
        return Layout(style, tuple(forms))


@dataclass(frozen=True)
class MappedSource:
    """Weights that were found to be a whole network of a configuration.

    Attributes:
        layout: The layout they are in.
        places: Piece name -> rows of a stored tensor.
        dropped: Names beside the weights: caches, optimizer slots, scalars.
    """

    layout: Layout
    places: dict[str, Rows]
    dropped: tuple[str, ...]
