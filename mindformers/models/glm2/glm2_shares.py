"""Which part of each weight a rank of a parallel run holds. What divides how is written here and nowhere else.

A piece is cut along its rows (matrices whose outputs are shared) or along its columns (matrices whose inputs
are), or it is whole on every rank of a tensor group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mindformers.checkpoint.keymap import Piece, Rows, Stored
from mindformers.checkpoint.parts import Part, Parted
from mindformers.config.pet import LORA_A, LORA_B, PREFIX, Ptuning2Section
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.parallel.layout import Layout

_BY_ROWS = ("q.weight", "q.bias", "gate", "up", "head")
_KEYS = ("k.weight", "k.bias", "v.weight", "v.bias")
_BY_COLUMNS = ("o", "down")


@dataclass(frozen=True)
class Share:
    """A rank's part of a piece.

    Attributes:
        rows: First and last row, the last not included.
        columns: The same for columns; None: all.
        copies: Ranks of the tensor group that hold this very part.
    """

    rows: tuple[int, int]
    columns: tuple[int, int] | None = None
    copies: int = 1

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Return the part's axes, for those of the piece."""
        first = self.rows[1] - self.rows[0]
        if self.columns is None:
            return (first, *whole[1:])
        return first, self.columns[1] - self.columns[0]


def is_held(name: str, config: ChatGLM2Config, layout: Layout) -> bool:
    """Tell whether a piece belongs to this rank's pipeline stage."""
    layer, _, _ = name.partition(".")
    if layer.isdigit():
        return int(layer) in layout.layers(config.num_layers)
    return layout.is_first_stage if name == "embedding" else layout.is_last_stage


def share_of(piece: Piece, config: ChatGLM2Config, layout: Layout) -> Share:
    """Return this rank's part of a piece of its stage."""
    layer, _, rest = piece.name.partition(".")
    kind, rows = rest if layer.isdigit() else piece.name, piece.shape[0]
    if kind in _BY_ROWS or (kind == "embedding" and layout.is_vocab_parallel):
        return Share(layout.share(rows))
    if kind in _KEYS:
        copies = layout.copies_of_kv_head(config.n_kv_heads)
        return Share(layout.kv_share(config.n_kv_heads, config.kv_channels), copies=copies)
    if kind in _BY_COLUMNS:
        return Share((0, rows), layout.share(piece.shape[1]))
    return Share((0, rows), copies=layout.tensor)


def held_tensors(whole: Iterable[Stored], config: ChatGLM2Config, layout: Layout) -> list[Stored]:
    """Return the tensors of a layout of names that this rank holds, in its sizes."""
    return [
        Stored(
            stored.name,
            tuple(
                replace(piece, shape=share_of(piece, config, layout).shape(piece.shape))
                for piece in stored.pieces
            ),
        )
        for stored in whole
        if is_held(stored.pieces[0].name, config, layout)
    ]


def held_places(
    whole: Iterable[Stored], places: Mapping[str, Rows], config: ChatGLM2Config, layout: Layout
) -> dict[str, Rows]:
    """Return where the parts this rank holds lie, for where the whole pieces do."""
    found = {}
    for stored in whole:
        for piece in stored.pieces:
            if is_held(piece.name, config, layout):
                share, rows = share_of(piece, config, layout), places[piece.name]
                start = rows.start + share.rows[0]
                stop = rows.start + share.rows[1]
                found[piece.name] = Rows(rows.name, start, stop, share.columns)
    return found


@dataclass(frozen=True)
class Copied:
    """Rows of a parameter that several ranks of one copy of the network hold.

    Attributes:
        rows: First and last row, the last not included.
        copies: How many ranks.
        is_partial: Each of them has a part of the gradient only.
        group: Who they are: a tensor group, those of it that share a key/value head, or all that hold
            one copy of the network, pipeline stages included.
    """

    rows: tuple[int, int]
    copies: int
    is_partial: bool
    group: Literal["tensor", "kv_copies", "model"] = "tensor"


def copied_rows(
    whole: Iterable[Stored], config: ChatGLM2Config, layout: Layout
) -> dict[str, list[Copied]]:
    """Return, for every parameter with such rows, which of its rows other ranks hold as well."""
    found: dict[str, list[Copied]] = {}
    for stored in whole:
        if not is_held(stored.pieces[0].name, config, layout):
            continue
        start = 0
        for piece in stored.pieces:
            share = share_of(piece, config, layout)
            stop = start + share.shape(piece.shape)[0]
            if share.copies > 1:
                is_norm = piece.name.endswith("_norm")
                is_partial = layout.is_sequence_parallel if is_norm else piece.name != "embedding"
                group: Literal["tensor", "kv_copies"] = "tensor" if is_norm else "kv_copies"
                rows = Copied((start, stop), share.copies, is_partial, group)
                found.setdefault(stored.name, []).append(rows)
            start = stop
    return found


def weight_parts(
    whole: Iterable[Stored], config: ChatGLM2Config, layout: Layout
) -> dict[str, Parted]:
    """Return, by name, what this rank's tensors are of the whole ones."""
    found = {}
    for stored in whole:
        if not is_held(stored.pieces[0].name, config, layout):
            continue
        parts, own, start = [], 0, 0
        for piece in stored.pieces:
            share = share_of(piece, config, layout)
            rows = share.rows[1] - share.rows[0]
            parts.append(Part(own, start + share.rows[0], rows, share.columns))
            own, start = own + rows, start + piece.shape[0]
        found[stored.name] = Parted(stored.shape, tuple(parts))
    return found


def adapter_parts(ranks: Mapping[str, int], weights: Mapping[str, Parted]) -> dict[str, Parted]:
    """Return, by name, what this rank's A and B are of the whole ones: A has the matrix's columns, B its rows.

    Args:
        ranks: Layer name -> rank of its adapter.
        weights: What ``weight_parts`` gave.
    """
    found = {}
    for layer, rank in ranks.items():
        weight = weights[f"{layer}.weight"]
        rows, columns = weight.shape
        cut = weight.parts[0].columns
        found[f"{layer}.{LORA_A}"] = Parted((rank, columns), (Part(0, 0, rank, cut),))
        own = tuple(replace(part, columns=None) for part in weight.parts)
        found[f"{layer}.{LORA_B}"] = Parted((rows, rank), own)
    return found


def adapter_copies(
    ranks: Mapping[str, int],
    weights: Mapping[str, Parted],
    copied: Mapping[str, list[Copied]],
    layout: Layout,
) -> dict[str, list[Copied]]:
    """Return, for A and B, which of their rows other ranks hold as well; each has a part of the gradient.

    Args:
        ranks: Layer name -> rank of its adapter.
        weights: What ``weight_parts`` gave.
        copied: What ``copied_rows`` gave of the weights: B has their rows.
        layout: Seen from this rank.
    """
    found: dict[str, list[Copied]] = {}
    if layout.tensor == 1:
        return found
    for layer, rank in ranks.items():
        weight = weights[f"{layer}.weight"]
        is_cut = weight.parts[0].columns is not None
        name, rows = (LORA_B, weight.shape[0]) if is_cut else (LORA_A, rank)
        found[f"{layer}.{name}"] = [Copied((0, rows), layout.tensor, True)]
        if f"{layer}.weight" in copied:
            found[f"{layer}.{LORA_B}"] = copied[f"{layer}.weight"]
    return found


def prefix_parts(
    settings: Ptuning2Section, config: ChatGLM2Config, layout: Layout
) -> dict[str, Parted]:
    """Return, by name, what this rank's prefix is of the whole one: that of its layers and key/value heads.

    What lies before the last layer of a projection is whole on every rank: all of its outputs come from it.
    """
    length, width = (
        settings.pre_seq_len,
        2 * config.num_layers * config.n_kv_heads * config.kv_channels,
    )
    spans, own = [], 0
    for first, stop in _prefix_spans(config, layout):
        spans.append((own, first, stop))
        own += stop - first
    rows, name = (length, width), f"{PREFIX}embedding.weight"
    if not settings.prefix_projection:
        return {name: Parted(rows, tuple(Part(0, 0, length, (a, b), at) for at, a, b in spans))}
    last, narrow = tuple(Part(at, a, b - a) for at, a, b in spans), settings.projection_dim
    return {
        name: Parted.whole(rows),
        f"{PREFIX}trans.0.weight": Parted.whole((narrow, width)),
        f"{PREFIX}trans.0.bias": Parted.whole((narrow,)),
        f"{PREFIX}trans.2.weight": Parted((width, narrow), last),
        f"{PREFIX}trans.2.bias": Parted((width,), last),
    }


def _prefix_spans(config: ChatGLM2Config, layout: Layout) -> list[tuple[int, int]]:
    """Return which channels of a row of the prefix this rank attends to: keys, then values, of each layer."""
    each, layers = config.n_kv_heads * config.kv_channels, layout.layers(config.num_layers)
    if layout.tensor == 1:
        return [(2 * layers.start * each, 2 * layers.stop * each)]
    first, stop = layout.kv_share(config.n_kv_heads, config.kv_channels)
    places = range(2 * layers.start, 2 * layers.stop)
    return [(place * each + first, place * each + stop) for place in places]


def prefix_copies(
    settings: Ptuning2Section, config: ChatGLM2Config, layout: Layout
) -> dict[str, list[Copied]]:
    """Return, for a prefix, which of its rows other ranks hold as well; each has a part of the gradient."""
    found: dict[str, list[Copied]] = {}
    heads, model = layout.copies_of_kv_head(config.n_kv_heads), layout.tensor * layout.pipeline
    for name, part in prefix_parts(settings, config, layout).items():
        rows = (0, part.own_shape[0])
        is_before = settings.prefix_projection and not name.startswith(f"{PREFIX}trans.2.")
        if is_before and model > 1:
            found[name] = [Copied(rows, model, True, "model")]
        elif not is_before and heads > 1:
            found[name] = [Copied(rows, heads, True, "kv_copies")]
    return found
