"""Attention with and without a cache against NumPy float64, for several head groupings."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindformers.ops.attention import PortableAttention, build_attention, causal_mask
from mindformers.ops.paged_attention import PortablePagedAttention, build_paged_attention
from tests.support.compare import assert_close
from tests.support.networks import ints


def attention_by_hand(q: np.ndarray, k: np.ndarray, v: np.ndarray, first: int = 0) -> np.ndarray:
    """Softmax attention, one head and one query at a time; query s stands at position first + s."""
    batch, tokens, heads, size = q.shape
    groups = k.shape[2]
    out = np.zeros((batch, tokens, heads, size))
    for b in range(batch):
        for n in range(heads):
            g = n // (heads // groups)
            for s in range(tokens):
                seen = first + s + 1
                scores = k[b, :seen, g].astype(np.float64) @ q[b, s, n] / np.sqrt(size)
                weights = np.exp(scores - scores.max())
                out[b, s, n] = (weights / weights.sum()) @ v[b, :seen, g]
    return out.reshape(batch, tokens, heads * size)


def random_qkv(heads: int, groups: int, tokens: int, size: int = 8) -> list[np.ndarray]:
    rng = np.random.default_rng(heads * 10 + groups)
    return [
        rng.standard_normal((2, tokens, n, size)).astype(np.float32)
        for n in (heads, groups, groups)
    ]


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_each_kv_head_serves_consecutive_query_heads(groups: int, pynative: None) -> None:
    q, k, v = random_qkv(8, groups, 6)
    steps = ints(np.arange(6)[None])
    got = build_attention(8, groups, 8, use_flash=True)(
        *map(Tensor, (q, k, v)), causal_mask(steps, steps)
    )
    assert_close(got.asnumpy(), attention_by_hand(q, k, v))


def test_cpu_takes_the_portable_forms(pynative: None) -> None:
    assert isinstance(build_attention(4, 2, 8, use_flash=True), PortableAttention)
    assert isinstance(build_paged_attention(4, 2, 8, 3, 4, ms.float32), PortablePagedAttention)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_over_the_cache_equals_attention_over_all_tokens(
    groups: int, pynative: None
) -> None:
    q, k, v = random_qkv(4, groups, 7)
    expected = attention_by_hand(q, k, v)
    paged = build_paged_attention(4, groups, 8, num_blocks=6, block_size=3, dtype=ms.float32)
    tables = np.array([[4, 1, 3], [2, 5, 0]])  # the second row's third block is never reached
    for start, stop in ((0, 3), (3, 4), (4, 6)):
        positions = np.broadcast_to(np.arange(start, stop), (2, stop - start))
        slots = np.take_along_axis(tables, positions // 3, 1) * 3 + positions % 3
        context = (tables[:, :, None] * 3 + np.arange(3)).reshape(2, -1)
        mask = causal_mask(ints(positions), ints(np.arange(context.shape[1])[None]))
        cache = (mask, ints(slots.reshape(-1)), ints(context), ints(tables), ints([stop, stop]))
        got = paged(*(Tensor(np.ascontiguousarray(x[:, start:stop])) for x in (q, k, v)), cache)
        assert_close(got.asnumpy(), expected[:, start:stop], what=f"tokens {start}..{stop - 1}")
