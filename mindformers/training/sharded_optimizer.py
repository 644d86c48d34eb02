"""An optimizer whose state is shared among the processes that hold the same weights (ZeRO, stage 1).

Each one updates its rows of every weight and gathers the others' rows. A weight whose rows do not divide is
updated whole by all of them.

Source: "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor

from mindformers.checkpoint.parts import Parted
from mindformers.parallel.mesh import mesh
from mindformers.training.optimizer_base import Optimizer


class ShardedOptimizer:
    """An optimizer with the state of this process's rows only.

    Args:
        optimizer_class: Updates each element by itself: AdamW, SGD or Lion.
        params: Groups ``{"params": [...], "weight_decay": number, "lr_scale": factor}``.
        **options: Of the optimizer.
    """

    def __init__(
        self,
        optimizer_class: type[Optimizer],
        params: Sequence[Mapping[str, Any]],
        **options: Any,
    ):
        self._group = mesh().replicas
        self._own: dict[int, tuple[int, int]] = {}
        self.parameters = [parameter for group in params for parameter in group["params"]]
        own = iter([self._share(index, weight) for index, weight in enumerate(self.parameters)])
        self._inner = optimizer_class(
            [{**group, "params": [next(own) for _ in group["params"]]} for group in params],
            **options,
        )
        self.learning_rate = self._inner.learning_rate
        self.kind = self._inner.kind  # the state is the same, and any layout reads it

    @property
    def step(self) -> int:
        """Finished updates."""
        return self._inner.step

    def _share(self, index: int, weight: Parameter) -> Parameter:
        """Return a parameter of this process's rows of a weight, or the weight where they do not divide."""
        rows, rest = divmod(weight.shape[0], self._group.size)
        if rest:
            return weight
        self._own[index] = (self._group.index * rows, (self._group.index + 1) * rows)
        part = weight[slice(*self._own[index])]
        return Parameter(part.copy(), name=weight.name, requires_grad=False)

    def apply(self, grads: Sequence[Tensor], lr: float, scale: float = 1.0) -> None:
        """Update this process's rows and gather the others'; as ``Optimizer.apply``."""
        own = list(grads)
        for index, rows in self._own.items():
            self._inner.parameters[index].set_data(self.parameters[index][slice(*rows)].copy())
            own[index] = grads[index][slice(*rows)].contiguous()
        self._inner.apply(own, lr, scale)
        for index in self._own:
            whole = self._group.all_gather(self._inner.parameters[index])
            self.parameters[index].set_data(whole)

    def state_parameters(self) -> list[Parameter]:
        """Return this process's state, in the order it is saved."""
        return self._inner.state_parameters()

    def saved_state(self) -> list[Parameter]:
        """Return what this process writes: its rows; whole tensors only as the first."""
        return [
            slot
            for index, slot in self._inner.indexed_state()
            if index in self._own or self._group.index == 0
        ]

    def state_parts(self, weights: Mapping[str, Parted]) -> dict[str, Parted]:
        """Return what each state tensor is of the whole one."""
        whole = self._inner.state_parts(weights)
        return {
            slot.name: whole[slot.name].rows(*self._own[index])
            if index in self._own
            else whole[slot.name]
            for index, slot in self._inner.indexed_state()
        }

    def check_names(self, stored: Iterable[str]) -> None:
        """Refuse names of a stored state that are not those of this one; as ``Optimizer.check_names``."""
        self._inner.check_names(stored)

    def load_state(self, arrays: Mapping[str, np.ndarray], step: int) -> None:
        """Take over this process's rows of the state of an earlier run; as ``Optimizer.load_state``."""
        self._inner.load_state(arrays, step)
