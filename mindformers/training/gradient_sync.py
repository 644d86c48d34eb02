"""From each rank's gradients to those of the whole batch: sums over the ranks that hold the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, ops

from mindformers.parallel.mesh import Mesh

MAX_BUCKET_BYTES = 8 * 2**20


class GradientSync:
    """Sums gradients over the ranks; a few large messages instead of one for each weight.

    Args:
        mesh: The groups.
        parameters: In the order of the gradients.
        copied: Parameter name -> rows that other ranks of a copy of the network hold too; see ``copied_rows``.
        num_buckets: Messages to make of all gradients, at least; none is longer than ``MAX_BUCKET_BYTES``.
        num_groups: Key/value heads of the network.
    """

    def __init__(
        self,
        mesh: Mesh,
        parameters: Sequence[Parameter],
        copied: Mapping[str, Sequence[Any]],
        *,
        num_buckets: int,
        num_groups: int,
    ):
        self.mesh = mesh
        self.copied = {i: copied[p.name] for i, p in enumerate(parameters) if p.name in copied}
        self.groups = {
            "tensor": mesh.tensor,
            "kv_copies": mesh.kv_copies(num_groups),
            "model": mesh.model,
        }
        total = sum(parameter.size for parameter in parameters) * 4
        self.limit = max(1, min(MAX_BUCKET_BYTES, -(-total // num_buckets)))

    def __call__(self, grads: list[Tensor]) -> list[Tensor]:
        """Return the gradients of the whole batch; the list is emptied on the way."""
        self._sum_copies(grads)
        group = self.mesh.replicas
        if group.is_alone:
            return grads
        for bucket in self._buckets(grads):
            if len(bucket) == 1:
                grads[bucket[0]] = group.all_reduce(grads[bucket[0]].contiguous())
                continue
            flat = ops.cat([grads[index].reshape((-1,)) for index in bucket])
            flat, start = group.all_reduce(flat), 0
            for index in bucket:
                shape, size = grads[index].shape, grads[index].size
                grads[index] = flat[start : start + size].reshape(shape)
                start += size
        return grads

    def _sum_copies(self, grads: list[Tensor]) -> None:
        """Sum rows that are on several ranks of a copy of the network, each with a part of the gradient."""
        for index, rows in self.copied.items():
            for each in rows:
                if each.is_partial:
                    grads[index] = _with_rows(grads[index], each.rows, self.groups[each.group])

    def _buckets(self, grads: Sequence[Tensor]) -> Iterator[list[int]]:
        bucket: list[int] = []
        filled = 0
        for index, grad in enumerate(grads):
            if bucket and filled + grad.nbytes > self.limit:
                yield bucket
                bucket, filled = [], 0
            bucket.append(index)
            filled += grad.nbytes
        if bucket:
            yield bucket

    def square_sum(self, grads: Sequence[Tensor], own: float) -> float:
        """Return this rank's part of the squared norm: what several ranks of a copy hold counts once.

        Args:
            grads: The gradients of the whole batch.
            own: The sum of all their squares.
        """
        for index, rows in self.copied.items():
            for each in rows:
                part = grads[index][slice(*each.rows)].asnumpy().reshape(-1).astype(np.float64)
                own -= float(np.dot(part, part)) * (1.0 - 1.0 / each.copies)
        return own


def _with_rows(grad: Tensor, rows: tuple[int, int], group: Any) -> Tensor:
    """Return a gradient whose ``rows`` are summed over a group."""
    if group.is_alone:
        return grad
    start, stop = rows
    summed = group.all_reduce(grad[start:stop].contiguous())
    parts = [grad[:start], summed, grad[stop:]]
    kept = [part for part in parts if part.shape[0]]
    return kept[0] if len(kept) == 1 else ops.cat(kept)
