"""What every optimizer has: groups of parameters, its state by name, float32 copies, an average of the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from mindformers.checkpoint.average import AVERAGE
from mindformers.checkpoint.parts import Parted
from mindformers.errors import CheckpointError, ConfigError, did_you_mean
from mindformers.ops.backend import cell_backend
from mindformers.ops.native.optimizer import ADAM_DTYPES, MomentRule, MomentTarget, moment_update
from mindformers.parallel.mesh import mesh
from mindformers.training.optimizer_arguments import checked_part, is_rate, refuse
from mindformers.training.optimizer_slots import slot_shapes

_GROUP_KEYS = ("params", "weight_decay", "lr_scale")
MASTER = "master"


@dataclass(frozen=True)
class Group:
    """What parameters share.

    Attributes:
        weight_decay: 0 or more.
        lr_scale: Factor on the learning rate, 0 or more.
    """

    weight_decay: float = 0.0
    lr_scale: float = 1.0


class Optimizer(ABC):
    """Updates parameters from float32 gradients.

    Args:
        params: Parameters, or groups ``{"params": [...], "weight_decay": number, "lr_scale": factor}``.
        learning_rate: Rate used when a run has no schedule; a number or a schedule.
        weight_decay: Decay of parameters whose group names none, 0 or more.
        ema_decay: Keep an exponential moving average of the weights: what an update leaves of it, in
            [0, 1); None: none is kept.
        slots: What decides the shapes of the state; see ``slot_shapes``.

    Attributes:
        kind: What a checkpoint calls the optimizer; one that ``slot_shapes`` knows.
        parameters: The trained parameters, in the order of the gradients.
        groups: The group of each.
        slots: The state of each, by the first part of its name.
        step: Finished updates.
        is_native: The kernels can update the parameters.

    Raises:
        ConfigError: If an argument is out of range or not implemented.
    """

    kind: str

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        learning_rate: float | Callable[[int], float],
        weight_decay: float,
        ema_decay: float | None,
        **slots: Any,
    ):
        if not (callable(learning_rate) or is_rate(learning_rate)):
            refuse("learning_rate", learning_rate, "a number, 0 or more, or a schedule")
        if ema_decay is not None:
            checked_part("ema_decay", ema_decay)
        self.learning_rate, self.ema_decay = learning_rate, ema_decay
        self.parameters, self.groups = _as_groups(list(params), weight_decay)
        is_known = all(parameter.dtype in ADAM_DTYPES for parameter in self.parameters)
        self.is_native = is_known and cell_backend() == "native"
        self.step = 0
        slots["ema_decay"] = ema_decay
        self.slots = [self._build_slots(parameter, slots) for parameter in self.parameters]

    def _build_slots(
        self, parameter: Parameter, options: Mapping[str, Any]
    ) -> dict[str, Parameter]:
        shape = tuple(parameter.shape)
        shapes = slot_shapes(self.kind, parameter.name, shape, options)
        if parameter.dtype != ms.float32:
            shapes[MASTER] = shape
        return {key: _zeros(f"{key}.{parameter.name}", form) for key, form in shapes.items()}

    def apply(self, grads: Sequence[Tensor], lr: float, scale: float = 1.0) -> None:
        """Update the parameters in place and count one step.

        Args:
            grads: One float32 tensor per parameter, in the order of ``parameters``.
            lr: Learning rate of this step.
            scale: Multiplies every gradient first (clipping, loss scale).
        """
        if self.step == 0:  # the weights may have been loaded after this optimizer was built
            self._copy_weights()
        self._update(grads, lr, scale)
        self.step += 1
        if self.ema_decay is not None:
            self._average(1.0 - self.ema_decay)

    @abstractmethod
    def _update(self, grads: Sequence[Tensor], lr: float, scale: float) -> None:
        """Update all parameters; ``step`` counts the updates before this one."""

    def target(self, index: int) -> Parameter:
        """Return what an update changes: a parameter, or its float32 copy."""
        return self.slots[index].get(MASTER, self.parameters[index])

    def set_target(self, index: int, value: Tensor) -> None:
        """Set a parameter, and its float32 copy."""
        self.target(index).set_data(value)
        if MASTER in self.slots[index]:
            parameter = self.parameters[index]
            parameter.set_data(value.astype(parameter.dtype))

    def _copy_weights(self) -> None:
        for parameter, slots in zip(self.parameters, self.slots, strict=True):
            for key in (MASTER, AVERAGE):
                if key in slots:
                    slots[key].set_data(parameter.astype(ms.float32).copy())

    def _average(self, part: float) -> None:
        """Move the average a part of its way to the weights."""
        if self.is_native:
            moment_update(self.kernel_targets(AVERAGE), None, MomentRule("average", take=part))
            return
        for index, slots in enumerate(self.slots):
            mean = slots[AVERAGE]
            mean.set_data(mean + part * (self.target(index) - mean))

    def kernel_targets(self, slot: str, lr: float = 0.0) -> list[MomentTarget]:
        """Return the parameters with one of their slots, where they have it, as the kernels take them."""
        rows = zip(self.parameters, self.slots, self.groups, strict=True)
        return [
            MomentTarget(
                parameter,
                slots.get(MASTER),
                slots.get(slot),
                lr * group.lr_scale,
                group.weight_decay,
            )
            for parameter, slots, group in rows
        ]

    def indexed_state(self) -> list[tuple[int, Parameter]]:
        """Return the state with the index of its parameter, in the order it is saved."""
        return [(index, each) for index, slots in enumerate(self.slots) for each in slots.values()]

    def state_parameters(self) -> list[Parameter]:
        """Return the state, in the order it is saved."""
        return [slot for _, slot in self.indexed_state()]

    def saved_state(self) -> list[Parameter]:
        """Return what this process writes of the state: nothing where another one holds the same."""
        return self.state_parameters() if mesh().replicas.index == 0 else []

    def state_parts(self, weights: Mapping[str, Parted]) -> dict[str, Parted]:
        """Return what each state tensor is of the whole one, for what its weight is of the whole weight."""
        return {
            slot.name: weights[self.parameters[index].name]
            if slot.shape == self.parameters[index].shape
            else Parted.whole(slot.shape)
            for index, slot in self.indexed_state()
        }

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the state by name, as ``adam_m.<weight>`` or ``master.<weight>``; not ``step``."""
        return {p.name: p.asnumpy() for p in self.state_parameters()}

    def load_state(self, arrays: Mapping[str, np.ndarray], step: int) -> None:
        """Take over the state of an earlier run; its arrays are copied.

        Args:
            arrays: What ``state_dict`` gave, no more and no less.
            step: Updates finished when it was saved.

        Raises:
            CheckpointError: If a name is missing, left over, or has another shape.
        """
        self.check_names(arrays)
        state = {p.name: p for p in self.state_parameters()}
        for name, parameter in state.items():
            if tuple(arrays[name].shape) != tuple(parameter.shape):
                raise CheckpointError(
                    f"has shape {tuple(arrays[name].shape)}",
                    where=name,
                    allowed=str(tuple(parameter.shape)),
                )
            parameter.set_data(Tensor(np.ascontiguousarray(arrays[name], dtype=np.float32)))
        self.step = step

    def check_names(self, stored: Iterable[str]) -> None:
        """Refuse names of a stored state that are not those of this one.

        Raises:
            CheckpointError: If one is missing or left over.
        """
        state, found = [p.name for p in self.state_parameters()], list(stored)
        for name in [*state, *found]:
            if name not in found or name not in state:
                kind = "is missing from" if name in state else "is unknown; it is in"
                raise CheckpointError(
                    f"{kind} the optimizer state",
                    where=name,
                    fix=did_you_mean(name, found if name in state else state)
                    or "resume with the model and optimizer that saved it",
                )


class RuleOptimizer(Optimizer):
    """An optimizer that updates one parameter at a time, by MindSpore's operators."""

    def _update(self, grads: Sequence[Tensor], lr: float, scale: float) -> None:
        for index, grad in enumerate(grads):
            scaled = grad if scale == 1.0 else grad * scale
            self.set_target(index, self._changed(index, scaled, lr * self.groups[index].lr_scale))

    @abstractmethod
    def _changed(self, index: int, grad: Tensor, lr: float) -> Tensor:
        """Return what becomes of ``target(index)``, float32, and update its state."""


def _as_groups(params: list[Any], weight_decay: float) -> tuple[list[Parameter], list[Group]]:
    """Return the parameters of all groups and the group of each; plain parameters are one group."""
    if not params:
        raise ConfigError("there is no parameter to train", fix="unfreeze some of the model")
    if not isinstance(params[0], Mapping):
        params = [{"params": params}]
    parameters: list[Parameter] = []
    groups: list[Group] = []
    for group in params:
        for key in group:
            if key not in _GROUP_KEYS:
                raise ConfigError("a parameter group has no such key", where=f"optimizer.{key}",
                                  allowed=", ".join(_GROUP_KEYS))  # fmt: skip
        values = {"weight_decay": group.get("weight_decay", weight_decay),
                  "lr_scale": group.get("lr_scale", 1.0)}  # fmt: skip
        for key, value in values.items():
            if not is_rate(value):
                refuse(key, value, "a number, 0 or more")
        members = list(group["params"])
        parameters += members
        groups += [Group(**{key: float(value) for key, value in values.items()})] * len(members)
    _refuse_repeats([parameter.name for parameter in parameters])
    return parameters, groups


def _refuse_repeats(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(
                f"the parameter {name!r} is given to the optimizer twice", fix="give each once"
            )
        seen.add(name)


def _zeros(name: str, shape: Sequence[int]) -> Parameter:
    """Return a float32 parameter of zeros that no gradient is computed for."""
    zeros = Tensor(np.zeros(tuple(shape), np.float32))
    return Parameter(zeros, name=name, requires_grad=False)
