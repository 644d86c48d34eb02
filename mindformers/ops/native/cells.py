"""Cells whose passes, forward and backward, are the native kernels. They run in PyNative mode only.

What a pass saves for the way back is as little as its gradient needs; a frozen weight gets no gradient
computed, and where a weight is frozen its input is not saved either.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.common._grad_function import _Function

from mindformers.ops.native import training as kernels
from mindformers.ops.native.training_attention import attention, attention_backward, rotate


class _LinearPass(_Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, is_trained: bool
    ) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return kernels.linear(x, weight, bias, is_trained)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        slopes = kernels.linear_backward(x, weight, dout.contiguous(), ctx.needs_input_grad[:3])
        return (*slopes, None)


class NativeLinear(nn.Cell):
    """y = x W^T + b in float32; the weight may be stored in a shorter type.

    Args:
        to_float32: Takes a bias from the type it is stored in to float32.
    """

    def __init__(self, to_float32: nn.Cell):
        super().__init__()
        self.to_float32 = to_float32

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (T, out) for ``x`` (T, in), ``weight`` (out, in) and ``bias`` (out,) or None."""
        own = None if bias is None else self.to_float32(bias)
        return _LinearPass.apply(x, weight, own, self.training)


class _RmsNormPass(_Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return kernels.rms_norm(x, weight, eps)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        found = kernels.rms_norm_backward(
            x, weight, ctx.eps, dout.contiguous(), ctx.needs_input_grad
        )
        return (*found, None)


class NativeRmsNorm(nn.Cell):
    """RMSNorm in float32; the factor of a row is computed again on the way back."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        """Normalize ``x`` (..., H) and scale by ``weight`` (H,); same shape and type as ``x``."""
        return _RmsNormPass.apply(x, weight, self.eps)


class _SwiGluPass(_Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        ctx.save_for_backward(gate_up)
        return kernels.swiglu(gate_up)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> Tensor:
        return kernels.swiglu_backward(ctx.saved_tensors[0], None, dout.contiguous())[0]


class NativeSwiGlu(nn.Cell):
    """silu(gate) * up."""

    def construct(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) * up, (T, F), from ``gate_up`` (T, 2F): gate first, up second."""
        return _SwiGluPass.apply(gate_up)


class _SplitSwiGluPass(_Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return kernels.swiglu(gate, up)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple:
        gate, up = ctx.saved_tensors
        return kernels.swiglu_backward(gate, up, dout.contiguous())


class NativeSplitSwiGlu(nn.Cell):
    """silu(gate) * up of two tensors."""

    def construct(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return silu(gate) * up, all (T, F)."""
        return _SplitSwiGluPass.apply(gate, up)


class _ActivatedLinearPass(_Function):
    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,
        up: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        is_trained: bool,
    ) -> Tensor:
        gate, up = gate.contiguous(), None if up is None else up.contiguous()
        ctx.save_for_backward(gate, up, weight)
        return kernels.linear(kernels.swiglu(gate, up), weight, bias, is_trained)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple:
        gate, up, weight = ctx.saved_tensors
        of_gate, of_up, of_weight, of_bias, _ = ctx.needs_input_grad
        x = kernels.swiglu(gate, up) if of_weight else None
        needs = (of_gate or of_up, of_weight, of_bias)
        dx, dweight, dbias = kernels.linear_backward(x, weight, dout.contiguous(), needs)
        dgate, dup = (None, None) if dx is None else kernels.swiglu_backward(gate, up, dx)
        return dgate, dup, dweight, dbias, None


class NativeActivatedLinear(NativeLinear):
    """y = (silu(gate) * up) W^T + b; the product in brackets is not kept but computed again on the way back."""

    def construct(
        self, x: Tensor | tuple[Tensor, Tensor], weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Return (T, out) for ``x`` (T, 2F), or gate and up, (T, F) each; the rest as of ``NativeLinear``."""
        gate, up = x if isinstance(x, tuple) else (x, None)
        own = None if bias is None else self.to_float32(bias)
        return _ActivatedLinearPass.apply(gate, up, weight, own, self.training)


class _AttentionPass(_Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, angles: tuple, mask: Tensor | None, sizes: tuple) -> Tensor:
        num_heads, num_groups, rotary_dim = sizes
        qkv = qkv.contiguous()
        rotate(qkv, *angles, count=num_heads + num_groups, rotary_dim=rotary_dim)
        out, sums = attention(qkv, mask, num_heads, num_groups)
        ctx.save_for_backward(qkv, out, sums)
        ctx.angles, ctx.mask, ctx.sizes = angles, mask, sizes
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple:
        qkv, out, sums = ctx.saved_tensors
        num_heads, num_groups, rotary_dim = ctx.sizes
        slope = attention_backward(qkv, ctx.mask, out, sums, dout.contiguous())
        rotate(
            slope, *ctx.angles, count=num_heads + num_groups, rotary_dim=rotary_dim, is_inverse=True
        )
        return slope, None, None, None


class NativeAttention(nn.Cell):
    """Rotary embedding and causal attention in one, without a matrix of scores.

    Args:
        num_heads: Query heads N.
        num_groups: Key/value heads G.
        rotary_dim: Channels of a head that rotate.
        general: Attention for masks that are not causal: ``construct(qkv, cos, sin, mask)``.
    """

    def __init__(self, num_heads: int, num_groups: int, rotary_dim: int, general: nn.Cell):
        super().__init__()
        self.sizes = (num_heads, num_groups, rotary_dim)
        self.general = general

    def construct(self, qkv: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """Rotate and attend.

        Args:
            qkv: (B, S, N + 2G, D), not rotated; it is rotated in place.
            cos: (1 or B, S, 1, D).
            sin: (1 or B, S, 1, D).
            mask: None (causal); (B, S) uint8, causal with the keys hidden where it is 0; (B, S) int32,
                causal from the key on that each query's document begins with; or as the portable form
                takes it.

        Returns:
            (B, S, N * D), heads side by side; 0 for a token that sees no key.
        """
        if mask is not None and mask.ndim != 2:
            return self.general(qkv, cos, sin, mask)
        return _AttentionPass.apply(qkv, (cos, sin), mask, self.sizes)


class _EmbeddingPass(_Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor) -> Tensor:
        ids = ids.astype(ms.int32).contiguous()
        ctx.save_for_backward(ids)
        ctx.num_rows = table.shape[0]
        return kernels.embedding(table, ids)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple:
        ids = ctx.saved_tensors[0]
        return kernels.embedding_backward(ids, dout.contiguous(), ctx.num_rows), None


class NativeEmbedding(nn.Cell):
    """Rows of a table, in float32."""

    def construct(self, table: Tensor, ids: Tensor) -> Tensor:
        """Return (..., H) float32 for ``table`` (V, H) and ``ids`` (...)."""
        return _EmbeddingPass.apply(table, ids)


class _HeadLossPass(_Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor
    ) -> Tensor:
        needs = ctx.needs_input_grad
        loss, *slopes = kernels.head_loss(hidden.contiguous(), weight, labels, weights, needs)
        ctx.save_for_backward(*slopes)
        return Tensor(np.array([loss], np.float32))

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple:
        slopes, factor = ctx.saved_tensors, float(dout.asnumpy().reshape(-1)[0])
        for slope in slopes:
            if slope is not None and factor != 1.0:
                kernels.scale_in_place(slope, factor)
        return (*slopes, None, None)


class NativeHeadLoss(nn.Cell):
    """Output layer and mean cross entropy, a chunk of tokens at a time.

    The gradients are computed on the way there, while the logits of a chunk are at hand: the logits of
    all tokens, (T, V), never exist.

    Args:
        count_guard: Added to the number of labelled tokens.
    """

    def __init__(self, count_guard: float):
        super().__init__()
        self.count_guard = count_guard

    def construct(
        self, hidden: Tensor, weight: Tensor, labels: Tensor, input_mask: Tensor
    ) -> Tensor:
        """Return the loss, (1,), for ``hidden`` (T, H), ``weight`` (V, H), ``labels`` and ``input_mask`` (T,)."""
        mask = input_mask.asnumpy().astype(np.float32).reshape(-1)
        weights = Tensor(mask / (mask.sum(dtype=np.float32) + np.float32(self.count_guard)))
        labels = labels.astype(ms.int32).contiguous()
        return _HeadLossPass.apply(hidden, weight, labels, weights)
