"""Ten AdamW steps of the whole network against torch.optim.AdamW on Hugging Face's GlmForCausalLM."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers.parallel.runtime import start_runtime
from mindformers.training.optimizer import AdamW
from mindformers.training.param_groups import get_optimizer_grouped_parameters
from mindformers.training.train_step import MFTrainOneStepCell
from tests.support.compare import assert_close
from tests.support.golden_model import TRAIN_CASE, training_batches
from tests.support.networks import golden_network
from tests.support.parity import check_adamw_steps, golden

pytestmark = pytest.mark.parity


def test_losses_and_parameters_of_ten_adamw_steps_equal_the_oracle(mode: int) -> None:
    check_adamw_steps(TRAIN_CASE, "training")


def test_micro_batches_count_by_their_trained_tokens() -> None:
    start_runtime(device_target="CPU", mode=1)
    expected = golden("training")["losses"][0]
    network = golden_network(TRAIN_CASE)
    optimizer = AdamW(get_optimizer_grouped_parameters(network, 0.1))
    ids, labels = (a.astype(np.int32) for a in training_batches(TRAIN_CASE, 1)[0])
    assert (labels[0] >= 0).sum() != (labels[1] >= 0).sum()
    halves = [{"input_ids": ids[i : i + 1], "labels": labels[i : i + 1]} for i in (0, 1)]
    assert_close(MFTrainOneStepCell(network, optimizer)(halves, 0.0).loss, expected, 1e-6)
