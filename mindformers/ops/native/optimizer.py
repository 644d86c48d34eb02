"""The optimizer's arithmetic in one call for all parameters: norms of gradients and AdamW."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor

from mindformers.ops.native.library import DTYPES, required
from mindformers.ops.native.train_abi import AdamStruct, AdamTargetStruct, SpanStruct
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


def square_sum(*tensors: Tensor) -> float:
    """Return the sum of all squares of float32 tensors; its bits do not depend on the threads."""
    spans = (SpanStruct * len(tensors))(
        *(SpanStruct(address(each, "gradient", each.shape), each.size) for each in tensors)
    )
    total = ctypes.c_double()
    required().mf_square_sum(ctypes.addressof(spans), len(tensors), ctypes.addressof(total))
    return total.value
