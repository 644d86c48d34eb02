"""The search for the first thing that is not finite, in both modes."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindformers.training.diagnose import first_bad_layer, non_finite_error
from mindformers.training.optimizer import AdamW
from mindformers.training.train_step import MFTrainOneStepCell
from tests.unit.training.toy import SEQ, VOCAB, ToyData, ToyNet, toy_step


def batches():
    good = next(ToyData(rows=2, batch_size=2).batches(0))
    bad = {"input_ids": good["input_ids"].copy(), "labels": good["labels"]}
    bad["input_ids"][1, 3] = VOCAB - 1
    return good, bad


def test_the_layer_the_micro_batch_and_the_rows_are_named(mode):
    step = toy_step(ToyNet(spike=1e30))
    found = batches()
    error = non_finite_error(step, found, step(found, 1e-3), "step 7 (samples 4 to 7 of epoch 2)")
    assert str(error).startswith(
        "step 7 (samples 4 to 7 of epoch 2): loss nan, gradient norm nan; "
        "first bad layer: spike (ToySpike) (micro batch 1, rows 1); the weights are those of the"
    )
    assert ms.get_context("mode") == mode
    assert not step(found[:1], 1e-3).overflow, "no trace of the search is left in the network"


def test_a_finite_pass_names_no_layer(pynative):
    good, bad = batches()
    network = ToyNet(spike=1e30)
    assert first_bad_layer(network, good) is None
    assert first_bad_layer(network, bad) == "spike (ToySpike)"


def test_an_inner_layer_is_named_by_its_path(pynative):
    network = ToyNet()
    network.layers[1].bias.set_data(Tensor(np.full(8, np.nan, np.float32)))
    assert first_bad_layer(network, batches()[0]) == "layers.1 (ToyBlock)"


class RootAtZero(nn.Cell):
    """The loss is finite, its slope at 0 is not."""

    def __init__(self):
        super().__init__()
        self.good = Parameter(Tensor([1.0]), name="good")
        self.bad = Parameter(Tensor([0.0]), name="bad")

    def construct(self, input_ids, labels):
        return self.good * 2.0 + ops.sqrt(self.bad)


def test_a_gradient_that_alone_is_bad_is_named(mode):
    network = RootAtZero()
    step = MFTrainOneStepCell(network, AdamW(network.trainable_params()))
    batch = {"input_ids": np.zeros((1, SEQ), np.int32), "labels": np.zeros((1, SEQ), np.int32)}
    result = step([batch], 1e-3)
    assert result.overflow
    assert result.bad_micro_batches == ()
    assert np.isfinite(result.loss)
    error = non_finite_error(step, [batch], result, "step 1")
    assert "first bad gradient: bad (micro batch 0)" in str(error)
