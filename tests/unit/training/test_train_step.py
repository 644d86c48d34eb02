"""The training step: accumulation, clipping, loss scale, and weights that no NaN reaches."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from mindformers.errors import ConfigError, DataError
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.optimizer import AdamW
from mindformers.training.train_step import (
    MFTrainOneStepCell,
    SquareSumCell,
    host_square_sum,
)
from tests.support.compare import assert_close
from tests.unit.training.toy import IGNORED, SEQ, VOCAB, ToyData, ToyNet, weights_of


def build(network=None, **arguments):
    network = network or ToyNet()
    return MFTrainOneStepCell(network, AdamW(network.trainable_params()), **arguments)


def one_batch(rows=4):
    return next(ToyData(rows=rows, batch_size=rows).batches(0))


def halves(batch):
    middle = len(batch["input_ids"]) // 2
    return [{k: v[:middle] for k, v in batch.items()}, {k: v[middle:] for k, v in batch.items()}]


def numpy_loss(network, batch):
    """Loss of the toy network in float64."""
    w = {p.name: p.asnumpy().astype(np.float64) for p in network.get_parameters()}
    hidden = w["embedding"][batch["input_ids"].reshape(-1)]
    for layer in range(2):
        weight, bias = w[f"layers.{layer}.weight"], w[f"layers.{layer}.bias"]
        hidden = hidden + np.tanh(hidden @ weight + bias)
    logits = hidden @ w["head"]
    labels = batch["labels"].reshape(-1)
    known = labels != IGNORED
    log_sum = np.log(np.exp(logits).sum(-1))
    return (log_sum[known] - logits[known, labels[known]]).mean()


def test_loss_and_norm_are_those_of_the_batch(mode):
    network = ToyNet()
    batch = one_batch()
    expected = numpy_loss(network, batch)
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    result = build(network)([batch], lr=0.0)
    assert_close(result.loss, expected)
    assert result.num_tokens == batch["input_ids"].size
    assert result.num_trained_tokens == np.count_nonzero(batch["labels"] != IGNORED)
    # The slope of the loss along each weight, by finite differences in float64.
    squares = 0.0
    for parameter in network.get_parameters():
        value = before[parameter.name].astype(np.float64)
        for index in np.ndindex(value.shape):
            sides = []
            for delta in (1e-3, -1e-3):
                shifted = value.copy()
                shifted[index] += delta
                parameter.set_data(ms.Tensor(shifted, ms.float32))
                sides.append((numpy_loss(network, batch), parameter.asnumpy()[index]))
            squares += (
                (sides[0][0] - sides[1][0]) / (float(sides[0][1]) - float(sides[1][1]))
            ) ** 2
        parameter.set_data(ms.Tensor(before[parameter.name]))
    assert_close(result.grad_norm, np.sqrt(squares), 1e-4)  # finite differences, not float32


def test_two_micro_batches_equal_one_big_batch(mode):
    big, small = ToyNet(), ToyNet()
    batch = one_batch()
    parts = halves(batch)
    counts = [np.count_nonzero(part["labels"] != IGNORED) for part in parts]
    assert counts[0] != counts[1], "the halves must weigh differently for this test to tell"
    step_big, step_small = build(big, use_clip_grad=True), build(small, use_clip_grad=True)
    for _ in range(3):
        one, two = step_big([batch], 1e-2), step_small(parts, 1e-2)
        assert_close(two.loss, one.loss, 1e-6)
        assert_close(two.grad_norm, one.grad_norm, 1e-6)
    for name, value in weights_of(big).items():
        assert_close(weights_of(small)[name], value, 1e-5, name)


def test_a_micro_batch_without_labels_does_not_count(pynative):
    batch = one_batch()
    empty = {"input_ids": batch["input_ids"], "labels": np.full_like(batch["labels"], IGNORED)}
    alone, beside = build()([batch], 1e-3), build()([empty, batch], 1e-3)
    assert (beside.loss, beside.grad_norm) == (alone.loss, alone.grad_norm)


def test_a_step_without_any_label_is_refused(pynative):
    empty = {"input_ids": np.zeros((1, SEQ), np.int32), "labels": np.full((1, SEQ), IGNORED)}
    with pytest.raises(DataError, match="none of the 1 micro batches of a step has a label"):
        build()([empty], 1e-3)


def test_clipping_scales_the_gradients_to_the_largest_norm(mode):
    clipped, scaled = ToyNet(), ToyNet()
    batch = one_batch()
    step = build(clipped, use_clip_grad=True, max_grad_norm=0.05)
    result = step([batch], 1e-2)
    assert result.grad_norm > 0.05, "the norm reported is the one before clipping"
    reference = build(scaled)
    _, grads = reference.gradients(batch)
    reference.optimizer.apply([g * (0.05 / (result.grad_norm + 1e-6)) for g in grads], 1e-2)
    states = (each.optimizer.state_parameters() for each in (step, reference))
    for mine, other in zip(*states, strict=True):
        assert_close(mine.asnumpy(), other.asnumpy(), 1e-7, mine.name)


def test_without_clipping_the_largest_norm_has_no_effect(pynative):
    one, other = build(max_grad_norm=0.01), build(max_grad_norm=1.0)
    batch = one_batch()
    one([batch], 1e-2), other([batch], 1e-2)
    assert weights_of(one.network)["head"].tobytes() == weights_of(other.network)["head"].tobytes()


def test_the_loss_scale_changes_neither_loss_nor_update(mode):
    plain, scaled = build(), build(scale_sense=1024.0)
    batch = one_batch()
    one, two = plain([batch], 1e-2), scaled([batch], 1e-2)
    assert_close([two.loss, two.grad_norm], [one.loss, one.grad_norm], 1e-6)
    for name, value in weights_of(plain.network).items():
        assert_close(weights_of(scaled.network)[name], value, 1e-6, name)


def test_an_overflow_leaves_weights_and_moments_untouched(mode):
    network = ToyNet(spike=1e30)
    step = build(network)
    good = one_batch()
    step([good], 1e-2)
    before = weights_of(network)
    moments = {name: array.copy() for name, array in step.optimizer.state_dict().items()}
    bad = {"input_ids": good["input_ids"].copy(), "labels": good["labels"]}
    bad["input_ids"][0, 0] = VOCAB - 1
    result = step([good, bad], 1e-2)
    assert result.overflow
    assert result.bad_micro_batches == (1,)
    assert step.optimizer.step == 1
    for name, value in weights_of(network).items():
        assert value.tobytes() == before[name].tobytes()
    for name, value in step.optimizer.state_dict().items():
        assert value.tobytes() == moments[name].tobytes()
    assert not step([good], 1e-2).overflow, "the next step goes on"


def test_lower_precision_weights_train_like_float32_ones(mode):
    low, full = ToyNet(dtype=ms.bfloat16), ToyNet()
    for mine, other in zip(full.get_parameters(), low.get_parameters(), strict=True):
        mine.set_data(other.astype(ms.float32))
    batch = one_batch()
    steps = build(low), build(full)
    losses = [[step([batch], 3e-2).loss for _ in range(8)] for step in steps]
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-6)
    assert_close(losses[0], losses[1], 2e-2)
    assert losses[0][-1] < losses[0][0] - 0.3
    assert low.head.dtype == ms.bfloat16


def test_the_step_is_registered_under_upstreams_name():
    found = MindFormerRegister.get_cls(MindFormerModuleType.WRAPPER, "MFTrainOneStepCell")
    assert found is MFTrainOneStepCell


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_grad_norm": 0}, "runner_wrapper.max_grad_norm: is 0; allowed: a number above 0"),
        (
            {"scale_sense": "dynamic"},
            "runner_wrapper.scale_sense: is 'dynamic'; allowed: a number above 0",
        ),
        (
            {"global_norm_spike_threshold": 0},
            "runner_wrapper.global_norm_spike_threshold: is 0; allowed: a number above 0",
        ),
        ({"use_clip_gard": True}, "runner_wrapper.use_clip_gard: no such argument"),
    ],
)
def test_a_wrong_argument_is_refused_with_its_key(pynative, arguments, message):
    with pytest.raises(ConfigError) as caught:
        build(**arguments)
    assert str(caught.value).startswith(message)


def test_upstreams_neutral_arguments_are_accepted(pynative):
    build(local_norm=False, calculate_per_token_loss=True, print_separate_loss=False)


def test_both_forms_of_the_norm_agree_with_float64(mode):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((300, 70), (5,), ())]
    grads = [ms.Tensor(array) for array in arrays]
    exact = sum(float((array.astype(np.float64) ** 2).sum()) for array in arrays)
    assert host_square_sum(*grads) == pytest.approx(exact, rel=1e-6)
    assert float(SquareSumCell()(*grads)) == pytest.approx(exact, rel=1e-6)
    assert np.isnan(host_square_sum(ms.Tensor([1.0, float("nan")])))
