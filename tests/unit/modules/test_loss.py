"""Cross entropy against a sum written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor

from mindformers.errors import ConfigError
from mindformers.modules.loss import CrossEntropyLoss
from tests.support.compare import assert_close
from tests.support.networks import ints


def test_loss_is_the_mean_over_labelled_tokens_only(mode: int) -> None:
    logits = np.array([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0], [1.0, 1.0, 1.0]], np.float32)
    labels = np.array([2, -100, 0])
    first = -(2 - np.log(1 + np.e + np.e**2))
    loss = CrossEntropyLoss()(
        Tensor(logits), ints(labels), Tensor((labels != -100).astype(np.float32))
    )
    assert loss.shape == (1,)
    assert_close(loss.asnumpy(), [(first + np.log(3)) / 2])


def test_loss_without_any_label_is_zero_not_nan(mode: int) -> None:
    logits = Tensor(np.ones((2, 4), np.float32))
    loss = CrossEntropyLoss()(logits, ints([-100, -100]), Tensor(np.zeros(2, np.float32)))
    assert loss.asnumpy()[0] == 0


def test_the_sum_and_the_count_come_apart_on_request(pynative: None) -> None:
    rng = np.random.default_rng(3)
    logits = Tensor(rng.normal(size=(4, 5)).astype(np.float32))
    label, mask = Tensor(np.array([1, 2, 3, 4], np.int32)), Tensor([1.0, 0.0, 1.0, 1.0])
    total, count = CrossEntropyLoss(calculate_per_token_loss=True)(logits, label, mask)
    mean = CrossEntropyLoss(parallel_config=None, seq_split_num=1)(logits, label, mask)
    assert float(count[0]) == 3.0
    assert float(total[0]) / 3.0 == pytest.approx(float(mean[0]), rel=1e-6)
    with pytest.raises(ConfigError, match=r"CrossEntropyLoss\.seq_split_num: 2 is not implemented"):
        CrossEntropyLoss(seq_split_num=2)
