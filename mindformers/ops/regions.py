"""Where a tensor's form changes between the ranks of a group: each with its own way back.

An all-reduce's gradient in MindSpore reduces once more, so forward and backward are written out here, as
Megatron's f and g. They run in PyNative mode.

Letters: T tokens of all rows, H hidden, t size of the group.
"""

from __future__ import annotations

from typing import Any

from mindspore import Tensor, nn
from mindspore.common._grad_function import _Function

from mindformers.ops.cast import Keep
from mindformers.parallel.mesh import mesh


class _Enter(_Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple:
        return ctx.group.all_reduce(dout.contiguous()), None


class _Leave(_Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        return group.all_reduce(x.contiguous())

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple:
        return dout, None


class _GatherRows(_Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return group.all_gather(x.contiguous())

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple:
        return ctx.group.reduce_scatter(dout.contiguous()), None


class _SumRows(_Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return group.reduce_scatter(x.contiguous())

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple:
        return ctx.group.all_gather(dout.contiguous()), None


class _OwnRows(_SumRows):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        rows = x.shape[0] // group.size
        return x[group.index * rows : (group.index + 1) * rows].contiguous()


class Region(nn.Cell):
    """One change of form, as a cell.

    Args:
        change: Forward and backward.
        group: The ranks.
    """

    def __init__(self, change: type[_Function], group: Any):
        super().__init__()
        self.change, self.group = change, group

    def construct(self, x: Tensor) -> Tensor:
        """Return ``x`` in its new form."""
        return self.change.apply(x, self.group)


def build_enter() -> nn.Cell:
    """Return what stands before matrices whose rows are shared: (T, H) or this rank's (T/t, H) to (T, H)."""
    active = mesh()
    if active.tensor.is_alone:
        return Keep()
    return Region(_GatherRows if active.layout.is_sequence_parallel else _Enter, active.tensor)


def build_leave() -> nn.Cell:
    """Return what stands after a product of a part of the channels: sums (T, H), all of it or this rank's rows."""
    active = mesh()
    if active.tensor.is_alone:
        return Keep()
    return Region(_SumRows if active.layout.is_sequence_parallel else _Leave, active.tensor)


def build_own_rows() -> nn.Cell:
    """Return what takes a whole (T, H) to what the residual stream of this rank holds."""
    active = mesh()
    if active.tensor.is_alone or not active.layout.is_sequence_parallel:
        return Keep()
    return Region(_OwnRows, active.tensor)


class JoinChannels(nn.Cell):
    """Channels that ranks share, side by side; for answering only, it has no way back."""

    def __init__(self) -> None:
        super().__init__()
        self.group = mesh().tensor

    def construct(self, x: Tensor) -> Tensor:
        """Return (T, t * C) for ``x`` (T, C)."""
        return self.group.all_gather(x.transpose((1, 0)).contiguous()).transpose((1, 0))


def build_join_channels() -> nn.Cell:
    """Return what takes this rank's part of the logits to all of them."""
    return Keep() if mesh().tensor.is_alone else JoinChannels()


def build_gather_sequence() -> nn.Cell:
    """Return what takes keys or values of this rank's tokens to those of the whole sequence."""
    return Keep() if mesh().context.is_alone else GatherSequence()


class GatherSequence(nn.Cell):
    """Keys or values of this rank's tokens to those of the whole sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.region = Region(_GatherRows, mesh().context)

    def construct(self, x: Tensor) -> Tensor:
        """Return (B, c * S, G, D) for ``x`` (B, S, G, D), in the order of the sequence."""
        return self.region(x.transpose((1, 0, 2, 3))).transpose((1, 0, 2, 3))
