"""Exchange of tensors among the ranks of a group: one interface over MCCL (CPU) and HCCL (Ascend).

MCCL has no reduce-scatter and no gather into one tensor, so on a CPU those are made of what it has; an NPU uses
its own. On a CPU a message is cut below 16 MiB: larger ones fail now and then. Not run on Ascend here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor
from mindspore.mint import distributed

from mindformers.parallel.heartbeat import beat

MESSAGE_BYTES = 8 * 2**20
DEFAULT_GROUP = (
    "hccl_world_group"  # the name mint.distributed sends and receives in, on every device
)


class Group:
    """Two or more ranks that exchange tensors; one by itself is ``mesh.Alone``.

    Args:
        name: What it is called in ``traffic``.
        ranks: Its ranks, in order.
        rank: This process; one of them.

    Attributes:
        sent: Bytes this rank has sent by the textbook's ring, by kind of exchange.
    """

    is_alone = False

    def __init__(self, name: str, ranks: Sequence[int], rank: int):
        self.name, self.ranks, self.size = name, tuple(ranks), len(ranks)
        self.index = self.ranks.index(rank)
        self.sent: Counter[str] = Counter()
        self.handle = ""  # MindSpore's name; set when the group is made there

    def _count(self, kind: str, num_bytes: float) -> None:
        self.sent[kind] += int(num_bytes)
        beat(f"{kind} in {self.name}")

    def all_reduce(self, tensor: Tensor, op: str = "sum") -> Tensor:
        """Return the sum (or ``max``) over the ranks; the argument stays as it is."""
        self._count("all_reduce", 2 * (self.size - 1) / self.size * tensor.nbytes)
        return self._all_reduce(tensor, op)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the ranks' tensors one below the other, (size * rows, ...)."""
        self._count("all_gather", (self.size - 1) * tensor.nbytes)
        return self._all_gather(tensor)

    def reduce_scatter(self, tensor: Tensor) -> Tensor:
        """Return this rank's rows, (rows / size, ...), of the sum over the ranks."""
        self._count("reduce_scatter", (self.size - 1) / self.size * tensor.nbytes)
        return self._reduce_scatter(tensor)

    def broadcast(self, tensor: Tensor, index: int = 0) -> Tensor:
        """Return what the rank at ``index`` of the group gave; shapes and types are the same on all."""
        self._count("broadcast", tensor.nbytes if self.index == index else 0)
        result = tensor.copy()
        distributed.broadcast(result, self.ranks[index], group=self.handle)
        return result

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._count("barrier", 0)
        distributed.barrier(group=self.handle)

    def gather_objects(self, value: Any) -> list[Any]:
        """Return what every rank gave, in order; for a few bytes at the start of a run."""
        self._count("gather_objects", 0)
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value, group=self.handle)
        return found

    def _all_reduce(self, tensor: Tensor, op: str) -> Tensor:
        result = tensor.copy()
        distributed.all_reduce(result, op=op, group=self.handle)
        return result

    def _all_gather(self, tensor: Tensor) -> Tensor:
        raise NotImplementedError

    def _reduce_scatter(self, tensor: Tensor) -> Tensor:
        raise NotImplementedError


class CpuGroup(Group):
    """Exchange over MCCL: sockets between processes."""

    def _all_reduce(self, tensor: Tensor, op: str) -> Tensor:
        if tensor.nbytes <= MESSAGE_BYTES:
            return super()._all_reduce(tensor, op)
        flat = np.array(tensor.asnumpy()).reshape(-1)
        for part in _parts(flat):
            message = Tensor(part)
            distributed.all_reduce(message, op=op, group=self.handle)
            part[...] = message.asnumpy()
        return Tensor.from_numpy(flat.reshape(tensor.shape))

    def _all_gather(self, tensor: Tensor) -> Tensor:
        flat = np.ascontiguousarray(tensor.asnumpy()).reshape(-1)
        result = np.empty((self.size, flat.size), flat.dtype)
        start = 0
        for part in _parts(flat):
            messages = [Tensor(np.empty_like(part)) for _ in range(self.size)]
            distributed.all_gather(messages, Tensor(part), group=self.handle)
            for row, message in zip(result, messages, strict=True):
                row[start : start + part.size] = message.asnumpy()
            start += part.size
        return Tensor.from_numpy(result.reshape((self.size * tensor.shape[0], *tensor.shape[1:])))

    def _reduce_scatter(self, tensor: Tensor) -> Tensor:
        rows = tensor.shape[0] // self.size
        reduced = self._all_reduce(tensor, "sum").asnumpy()
        own = reduced[self.index * rows : (self.index + 1) * rows]
        return Tensor.from_numpy(np.ascontiguousarray(own))


class AscendGroup(Group):
    """Exchange over HCCL by the operators of ``mint.distributed``. Not run on Ascend here."""

    def _all_gather(self, tensor: Tensor) -> Tensor:
        shape = (self.size * tensor.shape[0], *tensor.shape[1:])
        result = ms.mint.empty(shape, dtype=tensor.dtype)
        distributed.all_gather_into_tensor(result, tensor.contiguous(), group=self.handle)
        return result

    def _reduce_scatter(self, tensor: Tensor) -> Tensor:
        shape = (tensor.shape[0] // self.size, *tensor.shape[1:])
        result = ms.mint.empty(shape, dtype=tensor.dtype)
        distributed.reduce_scatter_tensor(result, tensor.contiguous(), group=self.handle)
        return result


def _parts(flat: np.ndarray) -> list[np.ndarray]:
    """Return a flat array as views of at most ``MESSAGE_BYTES``."""
    step = max(1, MESSAGE_BYTES // flat.itemsize)
    return [flat[start : start + step] for start in range(0, flat.size, step)]


class Line:
    """Sending to and receiving from a rank, as the stages of a pipeline do.

    Args:
        name: What it is called in ``traffic``.
    """

    def __init__(self, name: str):
        self.name = name
        self.sent: Counter[str] = Counter()

    def send(self, tensor: Tensor, rank: int) -> None:
        """Send a tensor; its shape and type are known there."""
        self.sent["send"] += int(tensor.nbytes)
        beat(f"send to rank {rank}")
        flat = tensor.contiguous().reshape((-1,))
        step = max(1, MESSAGE_BYTES // tensor.itemsize)
        for start in range(0, flat.size, step):
            distributed.send(flat[start : start + step].contiguous(), rank)

    def receive(self, shape: Sequence[int], dtype: ms.dtype.Type, rank: int) -> Tensor:
        """Return the tensor a rank sent."""
        beat(f"receive from rank {rank}")
        size, parts = int(np.prod(shape)), []
        step = max(1, MESSAGE_BYTES // Tensor(0, dtype).itemsize)
        for start in range(0, size, step):
            part = ms.ops.zeros((min(step, size - start),), dtype)
            distributed.recv(part, rank)
            parts.append(part)
        flat = parts[0] if len(parts) == 1 else ms.ops.cat(parts)
        return flat.reshape(tuple(shape))
