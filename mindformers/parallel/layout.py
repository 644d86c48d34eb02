"""Who computes what: degrees of parallelism, ranks, groups, and each rank's share. Arithmetic only.

A rank's coordinates, innermost last: pipeline stage, data, context, tensor. Ranks of one tensor group are
neighbours, as their messages are the most frequent; the ranks of one pipeline stage are consecutive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mindformers.errors import ConfigError

AXES = ("pipeline", "data", "context", "tensor")  # outermost first


@dataclass(frozen=True)
class Layout:
    """How the processes of a run share it, seen from one of them.

    Attributes:
        data: Copies of the model, each with its own rows.
        tensor: Processes that share every matrix.
        pipeline: Stages, groups of layers that run one after another.
        context: Processes that share a sequence.
        rank: This process.
        is_sequence_parallel: Norms and residuals are shared along the tokens of a tensor group.
        is_vocab_parallel: The embedding table is shared among a tensor group; the output layer always is.
        shards_optimizer: The optimizer's state is shared among the copies of a weight.
        offset: Layers of each stage beyond an equal share; empty: none.
    """

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    rank: int = 0
    is_sequence_parallel: bool = False
    is_vocab_parallel: bool = False
    shards_optimizer: bool = False
    offset: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Processes."""
        return self.data * self.tensor * self.pipeline * self.context

    @property
    def is_single(self) -> bool:
        """Whether one process does everything."""
        return self.size == 1

    @property
    def tensor_rank(self) -> int:
        """Position in the tensor group."""
        return self.rank % self.tensor

    @property
    def context_rank(self) -> int:
        """Part of a sequence."""
        return self.rank // self.tensor % self.context

    @property
    def data_rank(self) -> int:
        """Copy of the model."""
        return self.rank // (self.tensor * self.context) % self.data

    @property
    def stage(self) -> int:
        """Pipeline stage."""
        return self.rank // (self.tensor * self.context * self.data)

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank holds the embedding."""
        return self.stage == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank holds the output layer and computes the loss."""
        return self.stage == self.pipeline - 1

    def at(self, rank: int) -> Layout:
        """Return the same layout seen from another rank."""
        return replace(self, rank=rank)

    def every_rank(self) -> Iterator[Layout]:
        """Yield the layout seen from each rank."""
        return (self.at(rank) for rank in range(self.size))

    def group(self, *axes: str) -> tuple[int, ...]:
        """Return the ranks that differ from this one in the coordinates named only, in order.

        Args:
            axes: Of ``pipeline``, ``data``, ``context``, ``tensor``.
        """
        mine = self.coordinates()
        return tuple(
            other.rank
            for other in self.every_rank()
            if all(
                value == mine[axis] or axis in axes for axis, value in other.coordinates().items()
            )
        )

    def coordinates(self) -> dict[str, int]:
        """Return this rank's position by axis."""
        return {
            "pipeline": self.stage,
            "data": self.data_rank,
            "context": self.context_rank,
            "tensor": self.tensor_rank,
        }

    def neighbour(self, step: int) -> int:
        """Return the rank of the same coordinates ``step`` stages later."""
        return self.rank + step * self.tensor * self.context * self.data

    def layers(self, num_layers: int) -> range:
        """Return the layers of this rank's stage."""
        counts = stage_counts(num_layers, self.pipeline, self.offset)
        first = sum(counts[: self.stage])
        return range(first, first + counts[self.stage])

    def copies_of_kv_head(self, num_groups: int) -> int:
        """Return how many ranks of a tensor group hold the same key/value head."""
        return max(1, self.tensor // num_groups)

    def share(self, length: int) -> tuple[int, int]:
        """Return ``(start, stop)`` of this rank's equal share of an axis in its tensor group."""
        each = length // self.tensor
        return self.tensor_rank * each, (self.tensor_rank + 1) * each

    def kv_share(self, num_groups: int, head_dim: int) -> tuple[int, int]:
        """Return ``(start, stop)``: the rows of the key (or value) weight this rank holds."""
        heads = max(1, num_groups // self.tensor)
        first = self.tensor_rank * num_groups // self.tensor
        return first * head_dim, (first + heads) * head_dim

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, JSON values, without the rank."""
        fields = asdict(self)
        del fields["rank"]
        return {**fields, "offset": list(self.offset)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Layout:
        """Return what ``to_dict`` gave, seen from rank 0."""
        return cls(**{**fields, "offset": tuple(fields["offset"])})

    def __str__(self) -> str:
        names = {"data": "data", "tensor": "model", "pipeline": "pipeline", "context": "context"}
        parts = [f"{text} {getattr(self, name)}" for name, text in names.items()
                 if getattr(self, name) > 1]  # fmt: skip
        return " x ".join(parts) or "one process"


def stage_counts(num_layers: int, stages: int, offset: Sequence[int] = ()) -> list[int]:
    """Return the number of layers of each stage: an equal share, plus its offset.

    Without offsets the first stages take one layer of the remainder each.
    """
    each, rest = divmod(num_layers, stages)
    if offset:
        return [each + more for more in offset]
    return [each + (stage < rest) for stage in range(stages)]


@dataclass(frozen=True)
class Sizes:
    """What of a network has to divide among processes.

    Args:
        heads: Query heads.
        groups: Key/value heads.
        ffn: Channels of the MLP.
        vocab: Rows of embedding and output layer.
        layers: Blocks.
        seq_length: Tokens of a row.
        rows: Rows of a micro batch in one process.
        rounded: Of matrices held in few bits: what their columns are, how many, and how many share a scale.
    """

    heads: int
    groups: int
    ffn: int
    vocab: int
    layers: int
    seq_length: int
    rows: int = 1
    rounded: tuple[tuple[str, int, int], ...] = ()


def faults_of(layout: Layout, sizes: Sizes, world_size: int | None = None) -> list[tuple[str, str]]:
    """Return (key, what is wrong) for everything that keeps a network from this layout.

    Args:
        layout: The degrees.
        sizes: The network's.
        world_size: Processes that were started; None: not known yet.
    """
    found = []
    tensor, degree = layout.tensor, "parallel_config.model_parallel"
    if world_size is not None and layout.size != world_size:
        found.append(
            (
                "parallel_config",
                f"asks for {layout.size} processes ({layout}), {world_size} were started",
            )
        )
    found += [(degree, what) for what in _cut_matrices(tensor, sizes)]
    if layout.pipeline > sizes.layers:
        found.append(
            (
                "parallel_config.pipeline_stage",
                f"is {layout.pipeline}, more than {sizes.layers} layers",
            )
        )
    elif min(stage_counts(sizes.layers, layout.pipeline, layout.offset)) < 1:
        found.append(("model.model_config.offset", "leaves a stage without a layer"))
    if sizes.seq_length % layout.context:
        found.append(("parallel_config.context_parallel",
                      f"is {layout.context}, which does not divide seq_length {sizes.seq_length}"))  # fmt: skip
    tokens = sizes.rows * sizes.seq_length // layout.context
    if layout.is_sequence_parallel and tokens % tensor:
        found.append(("parallel_config.use_seq_parallel",
                      f"model_parallel {tensor} does not divide {tokens} tokens"))  # fmt: skip
    return found


def _cut_matrices(tensor: int, sizes: Sizes) -> Iterator[str]:
    """Yield what keeps the matrices of a network from ``tensor`` processes."""
    for name, value in (("query heads", sizes.heads), ("ffn_hidden_size", sizes.ffn),
                        ("padded_vocab_size", sizes.vocab)):  # fmt: skip
        if value % tensor:
            yield f"is {tensor}, which does not divide {name} {value}"
    if sizes.groups % tensor and tensor % sizes.groups:
        yield f"is {tensor}: it neither divides nor is a multiple of {sizes.groups} key/value heads"
    for name, columns, group in sizes.rounded:
        if tensor > 1 and columns % (tensor * group):
            yield f"is {tensor}, which cuts groups of {group} of {columns} {name} that share a scale"


def check_layout(layout: Layout, sizes: Sizes, world_size: int | None = None) -> None:
    """Refuse a layout that does not fit the network or the number of processes, before anything is built.

    Raises:
        ConfigError: With every reason in one report.
    """
    found = faults_of(layout, sizes, world_size)
    if found:
        lines = "\n".join(f"  {where}: {what}" for where, what in found)
        raise ConfigError(
            f"the layout does not fit\n{lines}",
            where=found[0][0],
            fix="change the degrees in parallel_config or the number of processes",
        )
