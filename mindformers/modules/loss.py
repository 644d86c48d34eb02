"""Cross entropy over the tokens that carry a label."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindformers.config.options import refuse_options
from mindformers.modules.shared_loss import SharedHeadLoss
from mindformers.ops.backend import cell_backend
from mindformers.ops.cast import build_cast
from mindformers.ops.linear import PortableLinear
from mindformers.ops.native.cells import NativeHeadLoss
from mindformers.parallel.mesh import mesh

_COUNT_GUARD = 1e-8  # upstream's: a batch without any label has loss 0, not NaN


class CrossEntropyLoss(nn.Cell):
    """Mean negative log likelihood of the labelled tokens, in float32.

    Args:
        parallel_config: Upstream's; has no effect in one process.
        calculate_per_token_loss: Return the sum and the count instead of the mean.
        options: Upstream's ``seq_split_num``, at 1.

    Raises:
        ConfigError: If an option asks for what is not implemented.
    """

    def __init__(
        self, parallel_config: Any = None, calculate_per_token_loss: bool = False, **options: Any
    ) -> None:
        super().__init__()
        refuse_options("CrossEntropyLoss", options, {"seq_split_num": (1,)})
        del parallel_config
        self.is_summed = calculate_per_token_loss
        self.log_softmax = ops.LogSoftmax(-1)

    def construct(self, logits: Tensor, label: Tensor, input_mask: Tensor) -> Any:
        """Return the loss, shape (1,); or (sum, count), each (1,), with ``calculate_per_token_loss``.

        Args:
            logits: (T, V) float32.
            label: (T,) int32; what stands where the mask is 0 does not matter.
            input_mask: (T,) float32, 1 where a token counts.
        """
        known = ops.maximum(label, 0).expand_dims(1)  # (T, 1)
        picked = ops.gather_elements(self.log_softmax(logits), 1, known).reshape((-1,))  # (T,)
        total = (picked * input_mask).sum()
        if self.is_summed:
            return (-total).reshape((1,)), input_mask.sum().reshape((1,))
        return (-total / (input_mask.sum() + _COUNT_GUARD)).reshape((1,))


class PortableHeadLoss(nn.Cell):
    """Output layer and cross entropy one after the other.

    Args:
        param_dtype: Type the output layer is stored in.
        compute_dtype: Type of the hidden states and the product.
    """

    def __init__(self, param_dtype: ms.dtype.Type, compute_dtype: ms.dtype.Type):
        super().__init__()
        self.head = PortableLinear(param_dtype, compute_dtype)
        self.to_float32 = build_cast(compute_dtype, ms.float32)
        self.loss = CrossEntropyLoss()

    def construct(
        self, hidden: Tensor, weight: Tensor, labels: Tensor, input_mask: Tensor
    ) -> Tensor:
        """Return the mean loss of the tokens that count, (1,).

        Args:
            hidden: (T, H).
            weight: (V, H).
            labels: (T,) int32; what stands where the mask is 0 does not matter.
            input_mask: (T,) float32, 1 where a token counts.
        """
        return self.loss(self.to_float32(self.head(hidden, weight)), labels, input_mask)


def build_head_loss(param_dtype: ms.dtype.Type, compute_dtype: ms.dtype.Type) -> nn.Cell:
    """Return output layer and loss of the active backend, as ``PortableHeadLoss`` is called."""
    active = mesh()
    if active.tensor.is_alone and cell_backend() == "native" and compute_dtype == ms.float32:
        return NativeHeadLoss(_COUNT_GUARD)
    if not active.layout.is_single:
        return SharedHeadLoss(param_dtype, compute_dtype, _COUNT_GUARD)
    return PortableHeadLoss(param_dtype, compute_dtype)
