"""How AdamW changes the parameters: composed of MindSpore's operators, or by the native kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindformers.ops.backend import cell_backend
from mindformers.ops.native.optimizer import ADAM_DTYPES, AdamRates, AdamTarget, adam_update


@dataclass(frozen=True)
class AdamState:
    """Parameters with the state AdamW keeps for them, in one order.

    Args:
        parameters: What is trained.
        first: First moments, float32.
        second: Second moments, float32.
        masters: Index -> float32 copy of a parameter of another type.
        groups: Index of the group of weight decay, for every parameter.
    """

    parameters: Sequence[Parameter]
    first: Sequence[Parameter]
    second: Sequence[Parameter]
    masters: dict[int, Parameter]
    groups: Sequence[int]


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
        self.groups = tuple(state.groups)
        self.masters = ParameterTuple(state.masters.values())
        self.types = tuple(state.parameters[i].dtype for i in state.masters)
        self.update, self.cast = ops.AdamWeightDecay(), ops.Cast()

    def construct(self, lr, eps, decays, scale, *grads):
        """Update all targets.

        Args:
            lr: () float32, bias-corrected.
            eps: () float32, bias-corrected.
            decays: (groups,) float32, bias-corrected weight decay of each group.
            scale: () float32, multiplies every gradient.
            grads: float32 tensors, one per target.

        Returns:
            The master copies cast to their weights' own types; without any, ``lr``.
        """
        for index in range(len(self.groups)):
            self.update(
                self.targets[index], self.first[index], self.second[index],
                lr, self.beta1, self.beta2, eps, decays[self.groups[index]], grads[index] * scale,
            )  # fmt: skip
        if not self.types:
            return lr
        return [self.cast(self.masters[i], self.types[i]) for i in range(len(self.types))]


class PortableUpdate:
    """The update by MindSpore's operators."""

    def __init__(self, state: AdamState, betas: tuple[float, float]):
        self.state, self.cell = state, _UpdateCell(state, betas)

    def __call__(self, grads: Sequence[Tensor], rates: AdamRates, decays: Sequence[float]) -> None:
        """Update in place; ``rates`` and ``decays`` (one per group) hold the bias correction."""
        lower = self.cell(
            *(
                Tensor(value, ms.float32)
                for value in (rates.lr, rates.eps, list(decays), rates.scale)
            ),
            *grads,
        )
        # Assign has no bfloat16 kernel on a CPU, so lower-precision weights are set from here.
        masters = self.state.masters
        for index, value in zip(masters, lower if masters else (), strict=True):
            self.state.parameters[index].set_data(value)


class NativeUpdate:
    """The update by one call of the native kernels."""

    def __init__(self, state: AdamState):
        self.state = state

    def __call__(self, grads: Sequence[Tensor], rates: AdamRates, decays: Sequence[float]) -> None:
        """Update in place; as ``PortableUpdate``."""
        state = self.state
        moments = zip(state.parameters, state.first, state.second, state.groups, strict=True)
        targets = [
            AdamTarget(parameter, state.masters.get(i), first, second, decays[group])
            for i, (parameter, first, second, group) in enumerate(moments)
        ]
        adam_update(targets, [grad.contiguous() for grad in grads], rates)


def build_update(state: AdamState, betas: tuple[float, float]) -> PortableUpdate | NativeUpdate:
    """Return the update of the active backend."""
    is_known = all(parameter.dtype in ADAM_DTYPES for parameter in state.parameters)
    if cell_backend() == "native" and is_known:
        return NativeUpdate(state)
    return PortableUpdate(state, betas)
