"""How AdamW changes parameters: composed of MindSpore's operators, or by the native kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindformers.ops.native.optimizer import AdamRates, AdamTarget, adam_update
from mindformers.training.optimizer_base import MASTER, Group, Optimizer


@dataclass(frozen=True)
class AdamState:
    """Parameters with the state AdamW keeps for them, in one order.

    Args:
        parameters: What is trained.
        first: First moments, float32.
        second: Second moments, float32.
        masters: Index -> float32 copy of a parameter of another type.
        groups: The group of each parameter.
    """

    parameters: Sequence[Parameter]
    first: Sequence[Parameter]
    second: Sequence[Parameter]
    masters: dict[int, Parameter]
    groups: Sequence[Group]


class _UpdateCell(nn.Cell):
    """One AdamW update of every parameter, in place: one fused operator per parameter.

    ``AdamWeightDecay`` knows no bias correction; the caller passes corrected scalars instead.
    """

    def __init__(self, state: AdamState, betas: tuple[float, float]):
        super().__init__(auto_prefix=False)
        targets = [state.masters.get(i, p) for i, p in enumerate(state.parameters)]
        self.targets = ParameterTuple(targets)
        self.first, self.second = ParameterTuple(state.first), ParameterTuple(state.second)
        self.beta1, self.beta2 = Tensor(betas[0], ms.float32), Tensor(betas[1], ms.float32)
        kinds = list(dict.fromkeys(state.groups))
        self.groups = tuple(kinds.index(group) for group in state.groups)
        self.masters = ParameterTuple(state.masters.values())
        self.types = tuple(state.parameters[i].dtype for i in state.masters)
        self.update, self.cast = ops.AdamWeightDecay(), ops.Cast()

    def construct(self, rates, eps, decays, scale, *grads):
        """Update all targets.

        Args:
            rates: (groups,) float32, bias-corrected learning rate of each group.
            eps: () float32, bias-corrected.
            decays: (groups,) float32, bias-corrected weight decay of each group.
            scale: () float32, multiplies every gradient.
            grads: float32 tensors, one per target.

        Returns:
            The master copies cast to their weights' own types; without any, ``eps``.
        """
        for index in range(len(self.groups)):
            group = self.groups[index]
            self.update(
                self.targets[index], self.first[index], self.second[index], rates[group],
                self.beta1, self.beta2, eps, decays[group], grads[index] * scale,
            )  # fmt: skip
        if not self.types:
            return eps
        return [self.cast(self.masters[i], self.types[i]) for i in range(len(self.types))]


class _PortableUpdate:
    """The update by MindSpore's operators."""

    def __init__(self, state: AdamState, betas: tuple[float, float]):
        self.state, self.cell = state, _UpdateCell(state, betas)

    def __call__(self, grads: Sequence[Tensor], rates: AdamRates, correction: float) -> None:
        """Update in place; ``rates`` hold the bias correction, which weight decay does without."""
        kinds = list(dict.fromkeys(self.state.groups))
        lower = self.cell(
            *(
                Tensor(value, ms.float32)
                for value in (
                    [rates.lr * group.lr_scale for group in kinds],
                    rates.eps,
                    [group.weight_decay / correction for group in kinds],
                    rates.scale,
                )
            ),
            *grads,
        )
        # Assign has no bfloat16 kernel on a CPU, so lower-precision weights are set from here.
        masters = self.state.masters
        for index, value in zip(masters, lower if masters else (), strict=True):
            self.state.parameters[index].set_data(value)


class _NativeUpdate:
    """The update by the native kernels: one call for all parameters of one learning rate."""

    def __init__(self, state: AdamState):
        self.state = state
        self.members: dict[float, list[int]] = {}
        for index, group in enumerate(state.groups):
            self.members.setdefault(group.lr_scale, []).append(index)

    def __call__(self, grads: Sequence[Tensor], rates: AdamRates, correction: float) -> None:
        """Update in place; as ``_PortableUpdate``."""
        state = self.state
        for factor, members in self.members.items():
            targets = [
                AdamTarget(
                    state.parameters[i], state.masters.get(i), state.first[i], state.second[i],
                    state.groups[i].weight_decay / correction,
                )
                for i in members
            ]  # fmt: skip
            own = AdamRates(rates.lr * factor, rates.betas, rates.eps, rates.scale)
            adam_update(targets, [grads[i].contiguous() for i in members], own)


class AdamUpdate:
    """AdamW's update of some parameters of an optimizer, by the form of the active backend.

    Args:
        optimizer: Its state has ``adam_m`` and ``adam_v`` for them.
        members: Indices of the parameters.
        betas: Decay rates of the two moments.
        eps: Added to the square root of the second moment.
    """

    def __init__(
        self, optimizer: Optimizer, members: Sequence[int], betas: tuple[float, float], eps: float
    ):
        slots = [optimizer.slots[index] for index in members]
        state = AdamState(
            [optimizer.parameters[index] for index in members],
            [each["adam_m"] for each in slots],
            [each["adam_v"] for each in slots],
            {i: each[MASTER] for i, each in enumerate(slots) if MASTER in each},
            [optimizer.groups[index] for index in members],
        )
        self.betas, self.eps = betas, eps
        self._change: _NativeUpdate | _PortableUpdate
        self._change = (
            _NativeUpdate(state) if optimizer.is_native else _PortableUpdate(state, betas)
        )

    def __call__(self, grads: Sequence[Tensor], lr: float, scale: float, count: int) -> None:
        """Update in place; ``count`` is the number of this update, from 1."""
        beta1, beta2 = self.betas
        second_correction = math.sqrt(1.0 - beta2**count)
        correction = second_correction / (1.0 - beta1**count)
        rates = AdamRates(lr * correction, self.betas, self.eps * second_correction, scale)
        self._change(grads, rates, correction)
