"""Cross entropy over the tokens that carry a label."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

IGNORED_LABEL = -100
_COUNT_GUARD = 1e-8  # upstream's: a batch without any label has loss 0, not NaN


class CrossEntropyLoss(nn.Cell):
    """Mean negative log likelihood of the labelled tokens, in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.log_softmax = ops.LogSoftmax(-1)

    def construct(self, logits: Tensor, label: Tensor, input_mask: Tensor) -> Tensor:
        """Return the loss, shape (1,).

        Args:
            logits: (T, V) float32.
            label: (T,) int32; what stands where the mask is 0 does not matter.
            input_mask: (T,) float32, 1 where a token counts.
        """
        known = ops.maximum(label, 0).expand_dims(1)  # (T, 1)
        picked = ops.gather_elements(self.log_softmax(logits), 1, known).reshape((-1,))  # (T,)
        total = (picked * input_mask).sum()
        return (-total / (input_mask.sum() + _COUNT_GUARD)).reshape((1,))
