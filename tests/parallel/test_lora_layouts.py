"""Adapters that several processes share train as in one: losses, norms, A and B; by the published command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.shared_runs import finetune, require_equal, write_rows, write_start

PET = "model__model_config__pet_config__"
ADAPTERS = {
    f"{PET}lora_rank": 4, f"{PET}lora_dropout": 0, f"{PET}target_modules": ".*layers.*",
    f"{PET}rank_pattern": {"dense": 3, "layers.1.mlp.dense_h_to_4h": 6},
    "parallel__enable_parallel_optimizer": False, "runner_config__epochs": 3,
}  # fmt: skip
SEQUENCE = {"model_parallel": 2, "use_seq_parallel": True, "vocab_emb_dp": False}
SLOW = [
    ("tp4", {"model_parallel": 4}, {}),  # of two key/value heads
    ("pp2_tp2", {"pipeline_stage": 2, "model_parallel": 2, "micro_batch_num": 2}, {}),
    ("cp2_tp2", {"context_parallel": 2, **SEQUENCE}, {}),
    ("dp2_tp2", {"data_parallel": 2, "model_parallel": 2},
     {"parallel__enable_parallel_optimizer": True}),
    # Stages of one process each hold whole matrices: they drop what one process drops.
    ("pp4_dropout", {"pipeline_stage": 4, "micro_batch_num": 4}, {f"{PET}lora_dropout": 0.2}),
]  # fmt: skip


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    write_rows(folder / "rows.mindrecord")
    write_start(folder / "start")
    return folder


def run(material: Path, name: str, processes: int, degrees: dict, **settings):
    if "resume_training" not in settings:
        settings["load_checkpoint"] = str(material / "start")
    return finetune(
        material / "rows.mindrecord", material / name, processes=processes, parallel=degrees,
        **{**ADAPTERS, **settings},
    )  # fmt: skip


@pytest.fixture(scope="module")
def one_process(material):
    made = {}

    def alone(rows: int, micro: int, dropout: float = 0):
        key = (rows, micro, dropout)
        if key not in made:
            made[key] = run(
                material, f"one_{len(made)}", 1, {}, runner_config__batch_size=rows,
                runner_config__gradient_accumulation_steps=micro, **{f"{PET}lora_dropout": dropout},
            )  # fmt: skip
        return made[key]

    return alone


def test_a_tensor_group_with_shared_rows_equals_one_process(material, one_process):
    shared = run(material, "sp", 2, SEQUENCE, runner_config__batch_size=1)
    require_equal(one_process(1, 1), shared)
    ranks = {name.rpartition(".layers.")[2]: each.shape for name, each in shared.weights.items()}
    assert ranks["1.self_attention.dense.mindpet_delta_lora_a"] == (3, 32)
    assert ranks["1.mlp.dense_h_to_4h.mindpet_delta_lora_b"] == (96, 6)
    assert ranks["0.self_attention.query_key_value.mindpet_delta_lora_b"] == (64, 4)


@pytest.mark.large
@pytest.mark.parametrize(("name", "degrees", "settings"), SLOW, ids=[each[0] for each in SLOW])
def test_a_larger_layout_equals_one_process(material, one_process, name, degrees, settings):
    shared = run(material, name, 4, degrees, runner_config__batch_size=1, **settings)
    rows, micro = degrees.get("data_parallel", 1), degrees.get("micro_batch_num", 1)
    require_equal(one_process(rows, micro, settings.get(f"{PET}lora_dropout", 0)), shared)


@pytest.mark.large
def test_a_run_goes_on_in_the_same_and_in_another_layout(material, one_process):
    whole = one_process(1, 1)
    half, go_on = material / "half", {"resume_training": True}
    one = {"runner_config__batch_size": 1}
    run(material, "half", 2, {"model_parallel": 2}, steps=10, **one)
    shutil.copytree(half, material / "elsewhere")
    same = run(material, "half", 2, {"model_parallel": 2}, **one, **go_on)
    unbroken = run(material, "unbroken", 2, {"model_parallel": 2}, **one)
    assert same.losses == unbroken.losses
    for name, value in unbroken.weights.items():
        np.testing.assert_array_equal(same.weights[name], value)
    parts = {"context_parallel": 2}
    require_equal(whole, run(material, "elsewhere", 2, parts, **one, **go_on))
