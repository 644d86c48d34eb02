"""Rotation and attention for training, on MindSpore tensors; checked as in ``training``.

Letters: B batch, S tokens of a row, N query heads, G key/value heads, D head size.
"""

from __future__ import annotations

import ctypes

import mindspore as ms
from mindspore import Tensor

from mindformers.errors import TrainingError
from mindformers.ops.native.library import required
from mindformers.ops.native.memory import empty
from mindformers.ops.native.train_abi import AttentionStruct, RotateStruct
from mindformers.ops.native.training import address


def rotate(
    heads: Tensor,
    cosine: Tensor,
    sine: Tensor,
    *,
    count: int,
    rotary_dim: int,
    is_inverse: bool = False,
) -> None:
    """Rotate the first ``count`` heads of every token in place.

    Args:
        heads: (B, S, heads, D).
        cosine: (1 or B, S, 1, D), as ``RotaryAngles`` gives.
        sine: The same.
        count: How many heads rotate.
        rotary_dim: Channels of a head that rotate.
        is_inverse: Rotate back.
    """
    batch, tokens, every, dim = heads.shape
    if cosine.shape[0] not in (1, batch) or not 0 <= count <= every or not 0 <= rotary_dim <= dim:
        raise TrainingError(f"angles {tuple(cosine.shape)} for heads {tuple(heads.shape)}")
    angles = (cosine.shape[0], tokens, 1, dim)
    call = RotateStruct(
        data=address(heads, "heads", heads.shape), cosine=address(cosine, "cosine", angles),
        sine=address(sine, "sine", angles), rows=batch * tokens, step=every * dim, heads=count, dim=dim,
        pairs=rotary_dim // 2, angle_rows=cosine.shape[0] * tokens, is_inverse=is_inverse,
    )  # fmt: skip
    required().mf_rotate(ctypes.byref(call))


def attention(
    qkv: Tensor, mask: Tensor | None, num_heads: int, num_groups: int
) -> tuple[Tensor, Tensor]:
    """Attend causally; nothing of size S x S is kept.

    Args:
        qkv: (B, S, N + 2G, D), query and key rotated.
        mask: (B, S) uint8, 0 where a key is hidden; or (B, S) int32, the first key each query sees, which
            must not fall within a row; None: all are seen. A query that sees no key gets 0.
        num_heads: N.
        num_groups: G.

    Returns:
        What was mixed, (B, S, N * D), and the logarithm of every row's sum, (B, N, S).
    """
    batch, tokens, _, dim = qkv.shape
    call = _attention_struct(qkv, mask, num_heads, num_groups)
    out, sums = empty((batch, tokens, num_heads * dim)), empty((batch, num_heads, tokens))
    call.out, call.lse = out.data_ptr(), sums.data_ptr()
    required().mf_train_attention(ctypes.byref(call))
    return out, sums


def attention_backward(
    qkv: Tensor, mask: Tensor | None, out: Tensor, sums: Tensor, dout: Tensor
) -> Tensor:
    """Return the gradient of ``qkv``; ``out`` and ``sums`` as ``attention`` gave them, ``dout`` (B, S, N * D)."""
    num_heads, dim = sums.shape[1], qkv.shape[3]
    num_groups = (qkv.shape[2] - num_heads) // 2
    call = _attention_struct(qkv, mask, num_heads, num_groups)
    slope = empty(qkv.shape)
    call.out, call.lse = out.data_ptr(), sums.data_ptr()
    call.dout = address(dout, "gradient", out.shape)
    call.dquery = slope.data_ptr()
    call.dkey = call.dquery + 4 * num_heads * dim
    call.dvalue = call.dkey + 4 * num_groups * dim
    required().mf_train_attention_backward(ctypes.byref(call))
    return slope


def _attention_struct(
    qkv: Tensor, mask: Tensor | None, num_heads: int, num_groups: int
) -> AttentionStruct:
    batch, tokens, every, dim = qkv.shape
    if num_groups < 1 or num_heads % num_groups or every != num_heads + 2 * num_groups:
        raise TrainingError(f"{num_heads} query and {num_groups} key heads for {tuple(qkv.shape)}")
    start, step = address(qkv, "query, key and value", qkv.shape), every * dim
    keys = start + 4 * num_heads * dim
    form = ms.uint8 if mask is None else mask.dtype
    name = "starts" if form == ms.int32 else "visible"
    masks = {} if mask is None else {name: address(mask, name, (batch, tokens), form)}
    return AttentionStruct(
        query=start, key=keys, value=keys + 4 * num_groups * dim,
        query_step=step, key_step=step, value_step=step, **masks,
        batch=batch, tokens=tokens, heads=num_heads, groups=num_groups, dim=dim,
    )  # fmt: skip
