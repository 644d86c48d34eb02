"""Weights of one layout as the tensors of another, produced block by block as they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from mindformers.checkpoint.dtypes import StoredType, cast
from mindformers.checkpoint.keymap import ReadBlocks, Rows, Stored, assemble, plan_tensor
from mindformers.checkpoint.tensor_io import TensorToWrite

_NOT_WEIGHTS = ("inv_freq", "key_cache", "value_cache")
_SLOTS = ("adam_m.", "adam_v.", "moment1.", "moment2.", "moments.", "accum.", "accu_grads.")


def weights_among(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the entries that can be weights: no cache, rotary table, optimizer slot or scalar."""
    return {
        name: shape
        for name, shape in shapes.items()
        if math.prod(shape) > 1 and not name.endswith(_NOT_WEIGHTS) and not name.startswith(_SLOTS)
    }


def tensors_in_layout(
    target: Iterable[Stored],
    places: Mapping[str, Rows],
    read_blocks: ReadBlocks,
    *,
    dtype_of: Callable[[str], StoredType],
    dtype: StoredType | None = None,
) -> list[TensorToWrite]:
    """Return the tensors of a layout, to be written.

    Args:
        target: The layout to write.
        places: Piece -> rows of a source tensor.
        read_blocks: (source name, start, stop) -> those rows in blocks.
        dtype_of: Source name -> its element type.
        dtype: Type to write; None: the source's, so that bytes are copied unchanged.
    """

    def produce(plan: Sequence[Rows], kind: StoredType, name: str) -> Iterator[np.ndarray]:
        for block in assemble(plan, read_blocks):
            yield cast(block, kind, name)

    result = []
    for stored in target:
        plan = plan_tensor(stored, places)
        kind = dtype or dtype_of(plan[0].name)
        result.append(
            TensorToWrite(
                stored.name,
                kind,
                stored.shape,
                lambda plan=plan, kind=kind, name=stored.name: produce(plan, kind, name),  # type: ignore[misc]
            )
        )
    return result
