"""The optimizers' arithmetic in one call for all parameters: norms, AdamW, rules of one moment, averages."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor

from mindformers.ops.native.library import DTYPES, required
from mindformers.ops.native.train_abi import (
    AdamStruct,
    AdamTargetStruct,
    MomentStruct,
    MomentTargetStruct,
    SpanStruct,
)
from mindformers.ops.native.training import WEIGHT_DTYPES, address

ADAM_DTYPES = (ms.float32, ms.bfloat16)


@dataclass(frozen=True)
class AdamTarget:
    """A parameter and its state.

    Args:
        parameter: float32 or bfloat16, any shape.
        master: float32 copy of a bfloat16 parameter; None for a float32 one.
        first: First moment, float32.
        second: Second moment, float32.
        decay: Weight decay times the inverse of the rate's bias correction.
    """

    parameter: Tensor
    master: Tensor | None
    first: Tensor
    second: Tensor
    decay: float


@dataclass(frozen=True)
class AdamRates:
    """What all parameters of an update share; ``lr`` and ``eps`` hold the bias correction."""

    lr: float
    betas: tuple[float, float]
    eps: float
    scale: float


def adam_update(targets: Sequence[AdamTarget], grads: Sequence[Tensor], rates: AdamRates) -> None:
    """Update parameters and moments in place; ``grads`` are float32 in the order of the targets.

    Raises:
        TrainingError: If a tensor has another type or shape than its parameter.
    """
    structs = (AdamTargetStruct * len(targets))(
        *(_struct(target, grad) for target, grad in zip(targets, grads, strict=True))
    )
    call = AdamStruct(
        targets=ctypes.addressof(structs), count=len(targets), lr=rates.lr, beta1=rates.betas[0],
        beta2=rates.betas[1], eps=rates.eps, scale=rates.scale,
    )  # fmt: skip
    required().mf_adam_update(ctypes.byref(call))


def _struct(target: AdamTarget, grad: Tensor) -> AdamTargetStruct:
    parameter = target.parameter
    shape = tuple(parameter.shape)
    expected = ms.float32 if target.master is None else ms.bfloat16
    master = None if target.master is None else address(target.master, "master copy", shape)
    return AdamTargetStruct(
        parameter=address(parameter, "parameter", shape, expected), master=master,
        first=address(target.first, "first moment", shape),
        second=address(target.second, "second moment", shape),
        gradient=address(grad, "gradient", shape), count=parameter.size, decay=target.decay,
        dtype=DTYPES[WEIGHT_DTYPES[expected]],
    )  # fmt: skip


_RULES = {"sgd": 0, "lion": 1, "average": 2}  # MomentRule of kernels_train.h


@dataclass(frozen=True)
class MomentTarget:
    """A parameter with one moment.

    Args:
        parameter: float32 or bfloat16, any shape.
        master: float32 copy of a bfloat16 parameter; None for a float32 one.
        moment: float32, or None where a rule keeps none.
        lr: Learning rate.
        decay: Weight decay.
    """

    parameter: Tensor
    master: Tensor | None
    moment: Tensor | None
    lr: float = 0.0
    decay: float = 0.0


@dataclass(frozen=True)
class MomentRule:
    """What happens to a parameter and its moment; the letters are those of kernels_train.h.

    Args:
        name: ``sgd``, ``lion`` or ``average``.
        keep: What the moment, or Lion's direction, keeps of the moment.
        take: What the sum takes of a slope; what Lion's moment keeps; what an average takes of the weight.
        is_ahead: SGD: Nesterov's form.
    """

    name: str
    keep: float = 0.0
    take: float = 0.0
    is_ahead: bool = False


def moment_update(
    targets: Sequence[MomentTarget],
    grads: Sequence[Tensor] | None,
    rule: MomentRule,
    scale: float = 1.0,
) -> None:
    """Update parameters and moments in place, or averages alone.

    Args:
        targets: What is updated.
        grads: float32, one for each target; None with the rule ``average``.
        rule: How.
        scale: Multiplies every gradient first.

    Raises:
        TrainingError: If a tensor has another type or shape than its parameter.
    """
    slopes: Sequence[Tensor | None] = [None] * len(targets) if grads is None else grads
    structs = (MomentTargetStruct * len(targets))(
        *(_moment_struct(target, grad) for target, grad in zip(targets, slopes, strict=True))
    )
    call = MomentStruct(
        targets=ctypes.addressof(structs), count=len(targets), keep=rule.keep, take=rule.take,
        scale=scale, rule=_RULES[rule.name], is_ahead=rule.is_ahead,
    )  # fmt: skip
    required().mf_moment_update(ctypes.byref(call))


def _moment_struct(target: MomentTarget, grad: Tensor | None) -> MomentTargetStruct:
    parameter = target.parameter
    shape = tuple(parameter.shape)
    expected = ms.float32 if target.master is None else ms.bfloat16

    def start(tensor: Tensor | None, what: str) -> int | None:
        return None if tensor is None else address(tensor, what, shape)

    return MomentTargetStruct(
        parameter=address(parameter, "parameter", shape, expected),
        master=start(target.master, "master copy"), moment=start(target.moment, "moment"),
        gradient=start(grad, "gradient"), count=parameter.size, lr=target.lr, decay=target.decay,
        dtype=DTYPES[WEIGHT_DTYPES[expected]],
    )  # fmt: skip


def square_sum(*tensors: Tensor) -> float:
    """Return the sum of all squares of float32 tensors; its bits do not depend on the threads."""
    spans = (SpanStruct * len(tensors))(
        *(SpanStruct(address(each, "gradient", each.shape), each.size) for each in tensors)
    )
    total = ctypes.c_double()
    required().mf_square_sum(ctypes.addressof(spans), len(tensors), ctypes.addressof(total))
    return total.value
