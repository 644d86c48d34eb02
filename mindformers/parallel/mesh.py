"""The groups of this process. A network built now takes its share from ``mesh()``; alone it is everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mindformers.parallel.layout import Layout


class Mesh:
    """A layout with the groups its ranks exchange tensors in.

    Args:
        layout: Seen from this process.
        device_target: ``CPU`` or ``Ascend``.

    Attributes:
        layout: The layout.
        tensor: Ranks that share every matrix.
        replicas: Ranks that hold the same weights and see other tokens: all copies, all parts of a sequence.
        context: Ranks that share a sequence.
        model: Ranks that hold one copy of the whole model.
        world: Everybody.
        line: Between pipeline stages.
    """

    def __init__(self, layout: Layout, device_target: str = "CPU"):
        self.layout = layout
        self._device = device_target
        self._groups: dict[tuple[int, ...], Any] = {}
        self._names: dict[str, Any] = {}
        if not layout.is_single:
            self._prepare_world()
        self.tensor = self._group("model_parallel", layout.group("tensor"))
        self.context = self._group("context_parallel", layout.group("context"))
        self.replicas = self._group("data_parallel", layout.group("data", "context"))
        self.model = self._group("model", layout.group("pipeline", "tensor"))
        self.world = self._group("world", tuple(range(layout.size)))
        self.line = self._line()

    def kv_copies(self, num_groups: int) -> Any:
        """Return the group of the ranks of a tensor group that hold the same key/value heads."""
        count = self.layout.copies_of_kv_head(num_groups)
        first = self.layout.tensor_rank // count * count
        return self._group("kv_copies", self.layout.group("tensor")[first : first + count])

    def traffic_per_step(self, steps: int) -> str:
        """Return what this rank has sent per step, by group and kind, as text (MB, by the textbook's ring)."""
        parts = [
            f"{name} {kind} {count / max(1, steps) / 1e6:.3f}"
            for name, kinds in self.traffic().items()
            for kind, count in kinds.items()
            if count
        ]
        return ", ".join(parts) or "nothing"

    def traffic(self) -> dict[str, Counter[str]]:
        """Return the bytes this rank has sent so far, by group and kind of exchange."""
        found = {name: group.sent for name, group in self._names.items()}
        return found | ({self.line.name: self.line.sent} if self.line else {})

    def _prepare_world(self) -> None:
        from mindspore.communication import create_group

        from mindformers.parallel.collectives import DEFAULT_GROUP

        if self._device == "CPU":  # HCCL has it from the start
            create_group(DEFAULT_GROUP, list(range(self.layout.size)))

    def _group(self, name: str, ranks: Sequence[int]) -> Any:
        ranks = tuple(ranks)
        if ranks not in self._groups:
            self._groups[ranks] = self._make(name, ranks)
        group = self._groups[ranks]
        self._names.setdefault(group.name, group)
        return group

    def _make(self, name: str, ranks: tuple[int, ...]) -> Any:
        if len(ranks) == 1:
            return Alone(name, ranks)
        from mindspore.communication import create_group

        from mindformers.parallel.collectives import DEFAULT_GROUP, AscendGroup, CpuGroup

        group = (CpuGroup if self._device == "CPU" else AscendGroup)(name, ranks, self.layout.rank)
        if len(ranks) == self.layout.size:
            group.handle = DEFAULT_GROUP
        else:
            group.handle = "ranks_" + "_".join(str(rank) for rank in ranks)
            create_group(group.handle, list(ranks))
        return group

    def _line(self) -> Any:
        if self.layout.pipeline == 1:
            return None
        from mindformers.parallel.collectives import Line

        return Line("pipeline")


class Alone:
    """A group of one: nothing is exchanged. Needs no MindSpore."""

    is_alone, size, index = True, 1, 0

    def __init__(self, name: str, ranks: tuple[int, ...] = (0,)):
        self.name, self.ranks = name, ranks
        self.sent: Counter[str] = Counter()

    def all_reduce(self, tensor: Any, op: str = "sum") -> Any:
        """Return the tensor."""
        del op
        return tensor

    def all_gather(self, tensor: Any) -> Any:
        """Return the tensor."""
        return tensor

    def reduce_scatter(self, tensor: Any) -> Any:
        """Return the tensor."""
        return tensor

    def broadcast(self, tensor: Any, index: int = 0) -> Any:
        """Return the tensor."""
        del index
        return tensor

    def barrier(self) -> None:
        """Do nothing."""

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the value in a list."""
        return [value]


_ACTIVE = [Mesh(Layout())]


def mesh() -> Mesh:
    """Return the groups of this process."""
    return _ACTIVE[0]


def activate(layout: Layout, device_target: str = "CPU") -> Mesh:
    """Make the groups of a layout; networks built from now on hold this rank's share.

    Every process of the run has to call it, with the same degrees.
    """
    _ACTIVE[0] = Mesh(layout, device_target)
    return _ACTIVE[0]
