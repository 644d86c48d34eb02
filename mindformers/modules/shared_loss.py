"""Output layer and cross entropy in chunks of tokens, over a vocabulary that a tensor group may share.

No rank ever has the logits of all tokens, nor those of the whole vocabulary where a group shares it.

Letters: T tokens of all rows, C tokens of a chunk, H hidden, V vocabulary, t size of the group.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common._grad_function import _Function

from mindformers.ops.cast import build_cast
from mindformers.parallel.mesh import mesh

CHUNK_BYTES = 32 * 2**20  # of the logits that exist at once


class _SharedLossPass(_Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        loss, *slopes = _loss_and_slopes(hidden, weight, labels, counts)
        ctx.save_for_backward(*slopes)
        return loss

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple:
        dhidden, dweight = ctx.saved_tensors
        return (
            dhidden * dout.astype(dhidden.dtype),
            dweight * dout.astype(dweight.dtype),
            None,
            None,
        )


def _loss_and_slopes(
    hidden: Tensor, weight: Tensor, labels: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted sum of the losses (1,) float32, and its gradients, a chunk of tokens at a time.

    Products are in the type of ``hidden`` and ``weight``; all else, and the sum of the weight's gradient, float32.
    """
    group, rows = mesh().tensor, weight.shape[0]
    product, back = ops.MatMul(transpose_b=True), ops.MatMul()
    across = ops.MatMul(transpose_a=True)
    lowest = group.index * rows
    total, dhidden = ops.zeros((1,), ms.float32), []
    dweight: Any = None
    chunk = max(1, CHUNK_BYTES // (4 * rows))
    for start in range(0, hidden.shape[0], chunk):
        part = hidden[start : start + chunk]
        local = labels[start : start + chunk] - lowest  # (C,)
        count = counts[start : start + chunk].expand_dims(1)  # (C, 1)
        logits = product(part, weight).astype(ms.float32)  # (C, V/t)
        highest = group.all_reduce(logits.max(-1, keepdims=True), "max")  # (C, 1)
        logits = logits - highest
        held = ops.logical_and(local >= 0, local < rows).astype(ms.float32).expand_dims(1)
        index = ops.clamp(local, 0, rows - 1).expand_dims(1)
        picked = ops.gather_elements(logits, 1, index) * held  # (C, 1)
        exponents = ops.exp(logits)
        sums = ops.cat((exponents.sum(-1, keepdims=True), picked), 1)  # (C, 2)
        sums = group.all_reduce(sums)
        normal, picked = sums[:, :1], sums[:, 1:]
        total = total + ((ops.log(normal) - picked) * count).sum().reshape((1,))
        slope = exponents * (count / normal)
        slope = ops.tensor_scatter_elements(
            slope, index, ops.gather_elements(slope, 1, index) - held * count, 1
        )
        slope = slope.astype(part.dtype)
        dhidden.append(back(slope, weight))
        step = across(slope, part).astype(ms.float32)
        dweight = step if dweight is None else dweight + step
    return total, ops.cat(dhidden), dweight.astype(weight.dtype)


class SharedHeadLoss(nn.Cell):
    """Mean cross entropy of the tokens that count; called as ``PortableHeadLoss``.

    The gradient of ``hidden`` is this rank's part: what comes before sums it over the group.

    Args:
        param_dtype: Type the output layer is stored in.
        compute_dtype: Type of the hidden states.
        count_guard: Added to the number of labelled tokens.
    """

    def __init__(
        self, param_dtype: ms.dtype.Type, compute_dtype: ms.dtype.Type, count_guard: float
    ):
        super().__init__()
        self.to_compute = build_cast(param_dtype, compute_dtype)
        self.count_guard = np.float32(count_guard)

    def construct(
        self, hidden: Tensor, weight: Tensor, labels: Tensor, input_mask: Tensor
    ) -> Tensor:
        """Return the loss, (1,).

        Args:
            hidden: (T, H), the same on every rank.
            weight: (V/t, H), this rank's rows.
            labels: (T,) int32, of the whole vocabulary.
            input_mask: (T,) float32, 1 where a token counts.
        """
        counts = input_mask / (input_mask.sum() + self.count_guard)
        return _SharedLossPass.apply(hidden, self.to_compute(weight), labels, counts)
