"""Cross entropy against a sum written out by hand."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor

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
