"""A trained prefix in two processes gives what it gives in one, and their step is one step."""

from __future__ import annotations

import pytest

from mindformers.checkpoint.loading import open_weights
from tests.support.shared_runs import finetune, largest_differences, write_rows, write_start

LOSS, NORM, WEIGHT = 1e-5, 1e-5, 1e-4  # relative, relative, absolute
NAME = "transformer.prefix_encoder.embedding.weight"


@pytest.mark.large
def test_data_parallel_p_tuning_with_a_shared_optimizer_equals_one_process(tmp_path):
    rows, start = write_rows(tmp_path / "rows.mindrecord"), write_start(tmp_path / "start")
    pet = {"pet_type": "ptuning2", "pre_seq_len": 6, "dropout_prob": 0.0}
    common = {"load_checkpoint": str(start), "steps": 6, "lr_schedule__learning_rate": 1e-2,
              "model__model_config__pet_config": pet}  # fmt: skip
    one = finetune(
        rows, tmp_path / "one", runner_config__batch_size=2, parallel__enable_parallel_optimizer=False,
        **common,
    )  # fmt: skip
    two = finetune(
        rows, tmp_path / "two", processes=2, parallel={"data_parallel": 2},
        runner_config__batch_size=1, parallel__enable_parallel_optimizer=True, **common,
    )  # fmt: skip
    loss, norm, weight = largest_differences(one, two)
    assert loss <= LOSS
    assert norm <= NORM
    assert weight <= WEIGHT
    with open_weights(two.folder / "checkpoint") as weights:
        assert list(weights.tensors) == [NAME]
