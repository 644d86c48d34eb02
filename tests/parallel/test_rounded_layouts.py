"""Adapters beside a base of few bits train in several processes as in one; by the published command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindformers.models.auto import AutoModel
from mindformers.pet import load_adapter
from tests.support.shared_runs import (
    arguments,
    finetune,
    launch,
    require_equal,
    write_rows,
    write_start,
)

STEPS = 6
# Rows of 128 columns: two processes share groups of 64 and of 32, four those of 32 alone.
SIZES = {"hidden_size": 64, "kv_channels": 32, "ffn_hidden_size": 128}
SEQUENCE = {"model_parallel": 2, "use_seq_parallel": True, "vocab_emb_dp": False}
SLOW = [
    ("tp2_int8", 2, "int8", {"model_parallel": 2}),
    ("pp2_int8", 2, "int8", {"pipeline_stage": 2, "micro_batch_num": 2}),
    ("tp4_int4", 4, "int4", {"model_parallel": 4}),
    ("pp2_tp2_int4", 4, "int4", {"pipeline_stage": 2, "model_parallel": 2, "micro_batch_num": 2}),
]


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rounded")
    write_rows(folder / "rows.mindrecord")
    write_start(folder / "start", **SIZES)
    return folder


def settings_of(material: Path, kind: str, **settings) -> dict:
    pet = {"pet_type": "lora", "lora_rank": 4, "lora_dropout": 0.0, "target_modules": ".*layers.*",
           "base_quantization": kind}  # fmt: skip
    return {
        "load_checkpoint": str(material / "start"), "network": SIZES,
        "model__model_config__pet_config": pet, "lr_schedule__learning_rate": 1e-2,
        "parallel__enable_parallel_optimizer": False, "runner_config__batch_size": 1, **settings,
    }  # fmt: skip


def run(material: Path, name: str, processes: int, kind: str, degrees: dict, **settings):
    return finetune(
        material / "rows.mindrecord", material / name, processes=processes, parallel=degrees,
        steps=STEPS, **settings_of(material, kind, **settings),
    )  # fmt: skip


def compare(material, name, processes, kind, degrees):
    shared = run(material, name, processes, kind, degrees)
    micro = {"runner_config__gradient_accumulation_steps": degrees.get("micro_batch_num", 1)}
    whole = run(material, f"one_{name}", 1, kind, {}, **micro)
    require_equal(whole, shared, STEPS)
    return shared


def test_a_tensor_group_shares_scales_with_their_groups(material):
    shared = compare(material, "sp", 2, "int4", SEQUENCE)
    # One process takes the step: its mark of the rounded base is the same.
    network = AutoModel.from_pretrained(
        material / "start", pet_config={"lora_rank": 4, "target_modules": ".*layers.*",
                                        "base_quantization": "int4"},
    )  # fmt: skip
    load_adapter(network, shared.folder / "checkpoint")


@pytest.mark.large
@pytest.mark.parametrize(
    ("name", "processes", "kind", "degrees"), SLOW, ids=[each[0] for each in SLOW]
)
def test_a_larger_layout_equals_one_process(material, name, processes, kind, degrees):
    compare(material, name, processes, kind, degrees)


@pytest.mark.large
def test_a_group_that_would_be_cut_is_refused_before_anything_is_built(material):
    line = arguments(
        material / "rows.mindrecord", material / "cut", 1, parallel={"model_parallel": 4},
        **settings_of(material, "int8"),
    )  # fmt: skip
    said = launch(line, 4, material / "cut" / "msrun", expect=None)
    assert "is 4, which cuts groups of 64 of 128 ffn_hidden_size that share a scale" in said
