"""Adapters of one layout of the weights as adapters of another: renamed, and split where it is exact.

An adapter of a fused weight [q; k; v] is A for all of its rows and B's rows for each part. So the parts
have adapters as well, each with the same A and its own rows of B: the product is the same. The other way
round it takes equal A, as the parts of a fused one have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from mindformers.checkpoint.keymap import Rows, Stored, locate_pieces
from mindformers.errors import CheckpointError

WEIGHT = ".weight"


class Adapter(NamedTuple):
    """The adapter of a layer: y = W x + scale * B A x, with A (r, in) and B (out, r)."""

    low: np.ndarray
    high: np.ndarray
    scale: float


def adapters_in_layout(
    adapters: Mapping[str, Adapter], source: Iterable[Stored], target: Iterable[Stored], where: str
) -> dict[str, Adapter]:
    """Return adapters under the layer names of another layout.

    Args:
        adapters: Layer name in the source layout -> its adapter.
        source: Tensors of the source layout.
        target: Tensors of the target layout.
        where: What holds the adapters, for errors.

    Raises:
        CheckpointError: If a layer is none of the source layout, has another shape, or its adapter has
            no exact counterpart.
    """
    source = [each for each in source if each.name.removesuffix(WEIGHT) in adapters]
    _check(adapters, source, where)
    places = locate_pieces(source)
    found = {}
    for stored in target:
        known = [piece.name for piece in stored.pieces if piece.name in places]
        if not known:
            continue
        layers = {places[name].name.removesuffix(WEIGHT): None for name in known}
        first = adapters[next(iter(layers))]
        equal = all(_have_one_input(adapters[layer], first) for layer in layers)
        name = stored.name.removesuffix(WEIGHT)
        if len(known) < len(stored.pieces) or not equal:
            raise CheckpointError(
                f"the adapters of {', '.join(layers)} are not one adapter of {name}",
                where=where,
                fix="set qkv_concat: False and mlp_concat: False for a network of the same layers, "
                "or merge them into the weights",
            )
        rows = [_rows_of_b(adapters, places[piece]) for piece in known]
        found[name] = first._replace(high=np.concatenate(rows))
    return found


def _have_one_input(one: Adapter, other: Adapter) -> bool:
    return one.scale == other.scale and np.array_equal(one.low, other.low)


def _rows_of_b(adapters: Mapping[str, Adapter], rows: Rows) -> np.ndarray:
    return adapters[rows.name.removesuffix(WEIGHT)].high[rows.start : rows.stop]


def _check(adapters: Mapping[str, Adapter], source: list[Stored], where: str) -> None:
    shapes = {each.name.removesuffix(WEIGHT): each.shape for each in source}
    for name, (low, high, _) in adapters.items():
        if name not in shapes:
            raise CheckpointError(f"{name} is no linear layer of this network", where=where)
        out_channels, in_channels = shapes[name]
        if low.shape != (high.shape[1], in_channels) or high.shape[0] != out_channels:
            raise CheckpointError(
                f"A is {low.shape} and B is {high.shape}",
                where=f"{where}: {name}",
                allowed=f"A (r, {in_channels}) and B ({out_channels}, r)",
            )
