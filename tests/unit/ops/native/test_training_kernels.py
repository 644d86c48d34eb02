"""The training kernels against NumPy in float64, over odd shapes, in every instruction set."""

from __future__ import annotations

import ctypes
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindformers.errors import TrainingError
from mindformers.ops.native import optimizer, training, training_attention
from mindformers.ops.native.optimizer import AdamRates, AdamTarget, MomentRule, MomentTarget
from tests.support import training_reference as reference
from tests.support.compare import assert_close
from tests.support.native_kernels import bfloat16_bits, widened

RATES = {"lr": 0.01, "decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}


@pytest.fixture(autouse=True)
def _use(kernels: ctypes.CDLL, pynative: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (training, training_attention, optimizer):
        monkeypatch.setattr(module, "required", lambda: kernels)


def values(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def tensors(*arrays: np.ndarray) -> list[Tensor]:
    return [Tensor(each) for each in arrays]


@pytest.mark.parametrize("dtype", [ms.float32, ms.bfloat16, ms.float16])
def test_a_linear_layer_and_its_gradients(dtype: Any) -> None:
    for tokens, cols, rows in ((1, 7, 5), (2, 52, 33), (67, 64, 96), (130, 35, 17)):
        x, dout, bias = values(1, tokens, cols), values(2, tokens, rows), values(3, rows)
        weight = Tensor(values(4, rows, cols)).astype(dtype)
        exact = weight.astype(ms.float32).asnumpy().astype(np.float64)
        found = training.linear(Tensor(x), weight, Tensor(bias))
        slopes = training.linear_backward(Tensor(x), weight, Tensor(dout), (True, True, True))
        expected = (x @ exact.T + bias, dout @ exact, dout.T.astype(np.float64) @ x, dout.sum(0))
        for got, want in zip((found, *slopes), expected, strict=True):
            assert_close(got.asnumpy(), want, 1e-4)


def test_what_needs_no_gradient_gets_none() -> None:
    weight, dout = Tensor(values(1, 5, 7)), Tensor(values(2, 3, 5))
    dx, dweight, dbias = training.linear_backward(None, weight, dout, (True, False, False))
    assert dweight is None
    assert dbias is None
    assert_close(dx.asnumpy(), dout.asnumpy() @ weight.asnumpy())
    x = Tensor(values(3, 3, 7))
    scale = Tensor(values(4, 7))
    assert training.rms_norm_backward(x, scale, 1e-6, x, (True, False))[1] is None
    assert training.rms_norm_backward(x, scale, 1e-6, x, (False, True))[0] is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 52), (70, 96), (2, 1030)])
def test_rms_norm_and_its_gradients(shape: tuple[int, int]) -> None:
    x, weight, dout = values(1, *shape), 1 + values(2, shape[1]), values(3, *shape)
    expected = reference.rms_norm(*(each.astype(np.float64) for each in (x, weight)), 1e-6, dout)
    out = training.rms_norm(Tensor(x), Tensor(weight), 1e-6)
    slopes = training.rms_norm_backward(Tensor(x), Tensor(weight), 1e-6, Tensor(dout), (True, True))
    for got, want in zip((out, *slopes), expected, strict=True):
        assert_close(got.asnumpy(), want)


@pytest.mark.parametrize("shape", [(1, 1), (3, 19), (40, 64)])
def test_swiglu_and_its_gradients_in_one_tensor_and_in_two(shape: tuple[int, int]) -> None:
    gate, up, dout = values(1, *shape, scale=3), values(2, *shape), values(3, *shape)
    gate[0, 0] = -120.0  # exp overflows: nothing may become NaN
    expected = reference.swiglu(*(each.astype(np.float64) for each in (gate, up)), dout)
    joined = Tensor(np.concatenate((gate, up), -1))
    slope, none = training.swiglu_backward(joined, None, Tensor(dout))
    assert none is None
    halves = np.split(slope.asnumpy(), 2, -1)
    apart = training.swiglu_backward(*tensors(gate, up, dout))
    assert_close(training.swiglu(joined).asnumpy(), expected[0])
    assert_close(training.swiglu(*tensors(gate, up)).asnumpy(), expected[0])
    for got, also, want in zip(halves, apart, expected[1:], strict=True):
        assert_close(got, want)
        assert_close(also.asnumpy(), want)


@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "groups", "dim", "threads"),
    [
        (1, 1, 2, 1, 32, 1), (2, 5, 4, 2, 20, 2), (1, 49, 4, 4, 32, 1), (2, 131, 4, 1, 64, 2),
        (1, 300, 4, 2, 128, 2), (3, 96, 6, 2, 8, 1),
    ],
)  # fmt: skip
def test_attention_and_its_gradients(
    kernels: ctypes.CDLL, batch: int, tokens: int, heads: int, groups: int, dim: int, threads: int
) -> None:
    kernels.mf_set_threads(threads)
    qkv = values(1, batch, tokens, heads + 2 * groups, dim)
    dout = values(2, batch, tokens, heads, dim)
    visible = (np.random.default_rng(3).random((batch, tokens)) < 0.7).astype(np.uint8)
    visible[0, :2] = 0  # the first tokens of a padded row see nothing
    for mask in (None, visible):
        parts = np.split(qkv.astype(np.float64), [heads, heads + groups], 2)
        out, *slopes = reference.attention(*parts, mask, dout)
        seen = None if mask is None else Tensor(mask)
        found, sums = training_attention.attention(Tensor(qkv), seen, heads, groups)
        assert_close(found.asnumpy().reshape(out.shape), out)
        slope = training_attention.attention_backward(
            Tensor(qkv), seen, found, sums, Tensor(dout.reshape(found.shape))
        )
        assert_close(slope.asnumpy(), np.concatenate(slopes, 2), 3e-5)  # sums of 300 terms


@pytest.mark.parametrize("threads", [1, 2])
def test_attention_of_packed_rows_never_crosses_a_document(
    kernels: ctypes.CDLL, threads: int
) -> None:
    kernels.mf_set_threads(threads)
    tokens, heads, groups, dim = 420, 4, 2, 20
    # Documents of one token, of a tile of keys, across tiles, and filling where each token is alone.
    cuts = [[0, 1, 2, 50, 178, 179, 330], [0, 128, 256, 384, *range(390, 420)], [0]]
    starts = np.array(
        [[max(c for c in row if c <= t) for t in range(tokens)] for row in cuts], np.int32
    )
    qkv = values(1, 3, tokens, heads + 2 * groups, dim)
    dout = values(2, 3, tokens, heads, dim)
    parts = np.split(qkv.astype(np.float64), [heads, heads + groups], 2)
    out, *slopes = reference.attention(*parts, None, dout, starts)
    found, sums = training_attention.attention(Tensor(qkv), Tensor(starts), heads, groups)
    assert_close(found.asnumpy().reshape(out.shape), out)
    slope = training_attention.attention_backward(
        Tensor(qkv), Tensor(starts), found, sums, Tensor(dout.reshape(found.shape))
    )
    assert_close(slope.asnumpy(), np.concatenate(slopes, 2), 3e-5)  # sums of 420 terms


def test_what_no_token_of_a_tile_sees_is_not_even_read() -> None:
    qkv = values(1, 1, 300, 3, 16)
    qkv[:, :128] = np.nan  # a document of one tile of keys; weights of 0 would not save the others
    starts = np.where(np.arange(300) < 128, 0, np.arange(300) // 128 * 128).astype(np.int32)[None]
    found, sums = training_attention.attention(Tensor(qkv), Tensor(starts), 1, 1)
    # Tiles of 48 queries: the one that ends in the second document begins in the first.
    assert np.isfinite(found.asnumpy()[:, 144:]).all()
    dout = Tensor(np.ones((1, 300, 16), np.float32))
    slope = training_attention.attention_backward(Tensor(qkv), Tensor(starts), found, sums, dout)
    assert np.isfinite(slope.asnumpy()[:, 256:]).all()


def test_scores_far_from_zero_neither_overflow_nor_vanish() -> None:
    qkv = values(1, 1, 40, 3, 16)
    qkv[:, :, :2] *= 60  # scores of some thousands
    parts = np.split(qkv.astype(np.float64), [1, 2], 2)
    out, *_ = reference.attention(*parts, None, np.zeros((1, 40, 1, 16)))
    found, sums = training_attention.attention(Tensor(qkv), None, 1, 1)
    assert np.isfinite(sums.asnumpy()).all()
    assert_close(found.asnumpy().reshape(out.shape), out, 2e-3)  # a score's own rounding is 1e-3


@pytest.mark.parametrize(("rows", "width"), [(1, 10), (2, 10), (2, 0)])
def test_rotation_turns_the_first_channels_and_back(rows: int, width: int) -> None:
    heads = values(1, 2, 7, 5, 24)
    angles = np.random.default_rng(2).uniform(0, 6, (rows, 7, width // 2))
    spread = np.zeros((rows, 7, 1, 24))
    spread[..., 0, :width] = np.repeat(angles, 2, -1)
    cosine, sine = tensors(np.cos(spread).astype(np.float32), np.sin(spread).astype(np.float32))
    tensor = Tensor(heads.copy())
    training_attention.rotate(tensor, cosine, sine, count=3, rotary_dim=width)
    expected = reference.rotate(heads.astype(np.float64), angles)
    assert_close(tensor.asnumpy()[:, :, :3], expected[:, :, :3])
    np.testing.assert_array_equal(tensor.asnumpy()[:, :, 3:], heads[:, :, 3:])
    training_attention.rotate(tensor, cosine, sine, count=3, rotary_dim=width, is_inverse=True)
    assert_close(tensor.asnumpy(), heads)


@pytest.mark.parametrize("dtype", [ms.float32, ms.bfloat16, ms.float16])
def test_embedding_gathers_and_adds_gradients_of_tokens_that_come_twice(dtype: Any) -> None:
    table = Tensor(values(1, 97, 20)).astype(dtype)
    ids = np.random.default_rng(2).integers(0, 97, (3, 50)).astype(np.int32)
    ids[0, :5] = 96
    dout = values(3, 3, 50, 20)
    exact = table.astype(ms.float32).asnumpy()
    np.testing.assert_array_equal(training.embedding(table, Tensor(ids)).asnumpy(), exact[ids])
    expected = np.zeros((97, 20))
    np.add.at(expected, ids, dout)
    assert_close(training.embedding_backward(Tensor(ids), Tensor(dout), 97).asnumpy(), expected)


@pytest.mark.parametrize(("tokens", "cols", "rows"), [(1, 8, 5), (9, 20, 97), (600, 12, 33)])
def test_head_loss_and_its_gradients(tokens: int, cols: int, rows: int) -> None:
    hidden, weight = values(1, tokens, cols), values(2, rows, cols)
    labels = np.random.default_rng(3).integers(0, rows, tokens).astype(np.int32)
    labels[1::3] = -100
    counts = np.where(labels < 0, 0, 1 / max(1, (labels >= 0).sum())).astype(np.float32)
    expected = reference.head_loss(
        hidden.astype(np.float64), weight.astype(np.float64), labels, counts
    )
    found = training.head_loss(*tensors(hidden, weight, labels, counts), (True, True))
    assert_close(found[0], expected[0])
    for got, want in zip(found[1:], expected[1:], strict=True):
        assert_close(got.asnumpy(), want)
    only_loss = training.head_loss(*tensors(hidden, weight, labels, counts), (False, False))
    assert only_loss == (found[0], None, None)


def test_a_batch_without_labels_has_loss_and_gradients_zero() -> None:
    hidden, weight = tensors(values(1, 5, 8), values(2, 11, 8))
    labels, counts = tensors(np.full(5, -100, np.int32), np.zeros(5, np.float32))
    loss, *slopes = training.head_loss(hidden, weight, labels, counts, (True, True))
    assert loss == 0
    assert not any(slope.asnumpy().any() for slope in slopes)


@pytest.mark.parametrize("is_short", [False, True])
def test_three_adamw_updates(is_short: bool) -> None:
    shapes, decays = ((33, 7), (40000,), (1,)), (0.1, 0.0, 0.1)
    weights = [values(i, *shape) for i, shape in enumerate(shapes)]
    exact = [
        [each.astype(np.float64), np.zeros(each.shape), np.zeros(each.shape)] for each in weights
    ]
    targets = []
    for weight, decay in zip(weights, decays, strict=True):
        moments = tensors(np.zeros_like(weight), np.zeros_like(weight))
        lower = Tensor(weight).astype(ms.bfloat16) if is_short else Tensor(weight.copy())
        targets.append((lower, Tensor(weight.copy()) if is_short else None, *moments, decay))
    for step in (1, 2, 3):
        grads = [values(10 * step + i, *shape) for i, shape in enumerate(shapes)]
        root = (1 - RATES["beta2"] ** step) ** 0.5
        correction = root / (1 - RATES["beta1"] ** step)
        rates = AdamRates(RATES["lr"] * correction, (0.9, 0.95), RATES["eps"] * root, 0.5)
        optimizer.adam_update(
            [AdamTarget(*each[:4], each[4] / correction) for each in targets],
            tensors(*grads),
            rates,
        )
        for state, grad, decay in zip(exact, grads, decays, strict=True):
            reference.adamw(state, 0.5 * grad.astype(np.float64), step, {**RATES, "decay": decay})
    for (lower, master, first, second, _), state in zip(targets, exact, strict=True):
        best = (lower if master is None else master).asnumpy()
        for got, want in zip((best, first.asnumpy(), second.asnumpy()), state, strict=True):
            assert_close(got, want, 1e-6)
        if is_short:
            rounded = lower.astype(ms.float32).asnumpy()
            np.testing.assert_array_equal(rounded, widened(bfloat16_bits(best)))


@pytest.mark.parametrize("is_short", [False, True])
@pytest.mark.parametrize(
    "rule",
    [
        MomentRule("sgd", 0.9, 0.8),
        MomentRule("sgd", 0.9, 1.0, is_ahead=True),
        MomentRule("lion", 0.9, 0.98),
        MomentRule("average", take=0.1),
    ],
    ids=["sgd", "nesterov", "lion", "average"],
)
def test_updates_of_one_moment(rule: MomentRule, is_short: bool) -> None:
    shapes, rates = ((33, 7), (40000,), (1,)), ((0.1, 0.1), (0.2, 0.0), (0.1, 0.1))
    weights = [values(i, *shape) for i, shape in enumerate(shapes)]
    exact = [[each.astype(np.float64), np.full(each.shape, 0.5)] for each in weights]
    targets = []
    for weight, (lr, decay) in zip(weights, rates, strict=True):
        moment = Tensor(np.full_like(weight, 0.5))
        lower = Tensor(weight).astype(ms.bfloat16) if is_short else Tensor(weight.copy())
        master = Tensor(weight.copy()) if is_short else None
        targets.append(MomentTarget(lower, master, moment, lr, decay))
    for step in (1, 2, 3):
        grads = [values(10 * step + i, *shape) for i, shape in enumerate(shapes)]
        slopes = None if rule.name == "average" else tensors(*grads)
        optimizer.moment_update(targets, slopes, rule, 0.5)
        for state, grad, pair in zip(exact, grads, rates, strict=True):
            reference.moment_rule(state, 0.5 * grad.astype(np.float64), rule, pair)
    for target, state in zip(targets, exact, strict=True):
        best = (target.parameter if target.master is None else target.master).asnumpy()
        assert target.moment is not None
        for got, want in zip((best, target.moment.asnumpy()), state, strict=True):
            assert_close(got, want, 1e-5)
        if is_short and rule.name != "average":
            rounded = target.parameter.astype(ms.float32).asnumpy()
            np.testing.assert_array_equal(rounded, widened(bfloat16_bits(best)))


def test_a_moment_of_another_shape_is_refused() -> None:
    weight, moment = tensors(values(1, 4, 3), values(1, 12))
    with pytest.raises(
        TrainingError, match=r"moment: is Float32 \(12,\); allowed: Float32 \(4, 3\)"
    ):
        optimizer.moment_update([MomentTarget(weight, None, moment)], [weight], MomentRule("lion"))


def test_the_sum_of_squares_of_many_values_and_of_values_that_are_not_finite() -> None:
    arrays = [values(1, 100_003), values(2, 3, 5), values(3, 1)]
    exact = sum((each.astype(np.float64) ** 2).sum() for each in arrays)
    assert optimizer.square_sum(*tensors(*arrays)) == pytest.approx(exact, rel=1e-7)
    arrays[1][2, 2] = np.nan
    assert np.isnan(optimizer.square_sum(*tensors(*arrays)))
    arrays[1][2, 2] = np.inf
    assert np.isinf(optimizer.square_sum(*tensors(*arrays)))


def test_gradients_have_the_same_bits_with_one_thread_and_with_three(kernels: ctypes.CDLL) -> None:
    x, scale, dout = tensors(values(1, 300, 40), values(2, 40), values(3, 300, 40))
    qkv = Tensor(values(4, 2, 150, 6, 16))
    hidden, head = tensors(values(5, 300, 40), values(6, 90, 40))
    labels = Tensor(np.arange(300, dtype=np.int32) % 90)
    counts = Tensor(np.full(300, 1 / 300, np.float32))

    def everything() -> list[np.ndarray]:
        out, sums = training_attention.attention(qkv, None, 4, 1)
        loss, *slopes = training.head_loss(hidden, head, labels, counts, (True, True))
        found = [
            *training.rms_norm_backward(x, scale, 1e-6, dout, (True, True)), out,
            training_attention.attention_backward(qkv, None, out, sums, out), *slopes,
            *training.linear_backward(hidden, head, Tensor(values(7, 300, 90)), (True,) * 3),
        ]  # fmt: skip
        squares = optimizer.square_sum(*found)
        return [np.array([loss, squares]), *(each.asnumpy().copy() for each in found)]

    kernels.mf_set_threads(1)
    alone = everything()
    kernels.mf_set_threads(3)
    for first, second in zip(alone, everything(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_wrong_types_shapes_and_ids_are_refused() -> None:
    weight, x = tensors(values(1, 5, 7), values(2, 3, 8))
    with pytest.raises(
        TrainingError, match=r"input: is Float32 \(3, 8\); allowed: Float32 \(3, 7\)"
    ):
        training.linear(x, weight, None)
    with pytest.raises(TrainingError, match="weight: is Int32"):
        training.linear(x, Tensor(np.ones((5, 8), np.int32)), None)
    with pytest.raises(TrainingError, match="norm weight"):
        training.rms_norm(x, Tensor(values(3, 7)), 1e-6)
    with pytest.raises(TrainingError, match="input_ids: found 0 to 5; allowed: 0 to 4"):
        training.embedding(weight, Tensor(np.array([0, 5], np.int32)))
    counts = Tensor(np.ones(3, np.float32))
    with pytest.raises(TrainingError, match="labels: found -1 to 2; allowed: 0 to 4"):
        labels = Tensor(np.array([0, -1, 2], np.int32))
        training.head_loss(Tensor(values(3, 3, 7)), weight, labels, counts, (True, True))
    with pytest.raises(TrainingError, match="3 query and 2 key heads"):
        training_attention.attention(Tensor(values(3, 1, 4, 7, 8)), None, 3, 2)
    with pytest.raises(TrainingError, match=r"visible: is UInt8 \(1, 3\)"):
        hidden = Tensor(np.ones((1, 3), np.uint8))
        training_attention.attention(Tensor(values(3, 1, 4, 4, 8)), hidden, 2, 1)
