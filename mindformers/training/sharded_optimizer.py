"""AdamW whose state is shared among the processes that hold the same weights (ZeRO, stage 1).

Each one updates its rows of every weight and gathers the others' rows. A weight whose rows do not divide is
updated whole by all of them.

Source: "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mindspore import Parameter, Tensor

from mindformers.checkpoint.parts import Parted
from mindformers.parallel.mesh import mesh
from mindformers.training.optimizer import AdamW


class ShardedAdamW(AdamW):
    """As ``AdamW``, with the state of this process's rows only.

    Args:
        params: Groups ``{"params": [...], "weight_decay": number}``.
        **options: As of ``AdamW``.
    """

    kind = "AdamW"  # what a checkpoint calls it: the state is the same, and any layout reads it

    def __init__(self, params: Sequence[Mapping[str, Any]], **options: Any):
        self._group = mesh().replicas
        self._own: dict[int, tuple[int, int]] = {}
        weights = [parameter for group in params for parameter in group["params"]]
        own = iter([self._share(index, weight) for index, weight in enumerate(weights)])
        super().__init__(
            [{**group, "params": [next(own) for _ in group["params"]]} for group in params],
            **options,
        )
        self._rows = self.parameters
        self.parameters = weights

    def _share(self, index: int, weight: Parameter) -> Parameter:
        """Return a parameter of this process's rows of a weight, or the weight where they do not divide."""
        rows, rest = divmod(weight.shape[0], self._group.size)
        if rest:
            return weight
        self._own[index] = (self._group.index * rows, (self._group.index + 1) * rows)
        part = weight[slice(*self._own[index])]
        return Parameter(part.copy(), name=weight.name, requires_grad=False)

    def apply(self, grads: Sequence[Tensor], lr: float, scale: float = 1.0) -> None:
        """Update this process's rows and gather the others'; as ``AdamW.apply``."""
        own = list(grads)
        for index, rows in self._own.items():
            self._rows[index].set_data(self.parameters[index][slice(*rows)].copy())
            own[index] = grads[index][slice(*rows)].contiguous()
        weights, self.parameters = self.parameters, self._rows
        try:
            super().apply(own, lr, scale)
        finally:
            self.parameters = weights
        for index in self._own:
            weights[index].set_data(self._group.all_gather(self._rows[index]))

    def saved_state(self) -> list[Parameter]:
        """Return what this process writes: its rows; whole tensors only as the first."""
        return [
            slot
            for index, slot in self._indexed_state()
            if index in self._own or self._group.index == 0
        ]

    def state_parts(self, weights: Mapping[str, Parted]) -> dict[str, Parted]:
        """Return what each state tensor is of the whole one."""
        whole = super().state_parts(weights)
        return {
            slot.name: whole[slot.name].rows(*self._own[index])
            if index in self._own
            else whole[slot.name]
            for index, slot in self._indexed_state()
        }

    def _indexed_state(self) -> list[tuple[int, Parameter]]:
        return [
            *enumerate(self.first),
            *enumerate(self.second),
            *self.masters.items(),
        ]
