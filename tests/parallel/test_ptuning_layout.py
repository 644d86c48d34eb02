"""A prefix that several processes share trains as in one: losses, norms, the prefix; by the published command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mindformers.checkpoint.loading import open_weights
from tests.support.shared_runs import finetune, require_equal, write_rows, write_start

STEPS = 6
NAMES = ("embedding.weight", "trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias")
FORMS = {
    "rows": {"pet_type": "ptuning2", "pre_seq_len": 6, "dropout_prob": 0.2},
    "projected": {"pet_type": "ptuning2", "pre_seq_len": 6, "dropout_prob": 0.2,
                  "prefix_projection": True, "projection_dim": 5},
}  # fmt: skip
SEQUENCE = {"model_parallel": 2, "use_seq_parallel": True, "vocab_emb_dp": False}
QUICK = [
    ("sp", 2, "rows", SEQUENCE),
    ("pp2", 2, "projected", {"pipeline_stage": 2, "micro_batch_num": 2}),
]
SLOW = [
    ("dp2", 2, "rows", {"data_parallel": 2}),
    ("cp2", 2, "projected", {"context_parallel": 2}),
    ("tp2_projected", 2, "projected", {"model_parallel": 2}),
    ("tp4", 4, "rows", {"model_parallel": 4}),  # of two key/value heads
    ("tp4_projected", 4, "projected", {"model_parallel": 4}),
    ("pp2_tp2", 4, "projected", {"pipeline_stage": 2, "model_parallel": 2, "micro_batch_num": 2}),
    ("pp2_tp4", 8, "projected", {"pipeline_stage": 2, "model_parallel": 4, "micro_batch_num": 2}),
    ("cp2_tp2", 4, "rows", {"context_parallel": 2, **SEQUENCE}),
    ("dp2_tp2", 4, "projected", {"data_parallel": 2, "model_parallel": 2}),
]  # fmt: skip


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prefix")
    write_rows(folder / "rows.mindrecord")
    write_start(folder / "start")
    return folder


def run(material: Path, name: str, form: str, processes: int, degrees: dict, **settings):
    if "resume_training" not in settings:
        settings["load_checkpoint"] = str(material / "start")
    shares = degrees.get("data_parallel", 1) * degrees.get("context_parallel", 1) > 1
    return finetune(
        material / "rows.mindrecord", material / name, processes=processes, parallel=degrees,
        **{"steps": STEPS, "lr_schedule__learning_rate": 1e-2,
           "model__model_config__pet_config": FORMS[form],
           "parallel__enable_parallel_optimizer": shares, **settings},
    )  # fmt: skip


@pytest.fixture(scope="module")
def one_process(material):
    made = {}

    def alone(form: str, rows: int, micro: int):
        key = (form, rows, micro)
        if key not in made:
            made[key] = run(
                material, f"one_{form}_{rows}_{micro}", form, 1, {}, runner_config__batch_size=rows,
                runner_config__gradient_accumulation_steps=micro,
            )  # fmt: skip
        return made[key]

    return alone


def compare(material, one_process, name, processes, form, degrees):
    shared = run(material, name, form, processes, degrees, runner_config__batch_size=1)
    rows, micro = degrees.get("data_parallel", 1), degrees.get("micro_batch_num", 1)
    require_equal(one_process(form, rows, micro), shared, STEPS)
    with open_weights(shared.folder / "checkpoint") as weights:
        names = NAMES if form == "projected" else NAMES[:1]
        assert set(weights.tensors) == {f"transformer.prefix_encoder.{each}" for each in names}


@pytest.mark.parametrize(
    ("name", "processes", "form", "degrees"), QUICK, ids=[each[0] for each in QUICK]
)
def test_a_layout_equals_one_process(material, one_process, name, processes, form, degrees):
    compare(material, one_process, name, processes, form, degrees)


@pytest.mark.large
@pytest.mark.parametrize(
    ("name", "processes", "form", "degrees"), SLOW, ids=[each[0] for each in SLOW]
)
def test_a_larger_layout_equals_one_process(material, one_process, name, processes, form, degrees):
    compare(material, one_process, name, processes, form, degrees)


@pytest.fixture(scope="module")
def half(material):
    """Return the folder of a run that stopped after three steps in two processes; each is made once."""
    made = {}

    def stopped(form: str) -> Path:
        if form not in made:
            made[form] = run(
                material, f"half_{form}", form, 2, {"model_parallel": 2}, steps=3,
                runner_config__batch_size=1,
            ).folder  # fmt: skip
        return made[form]

    return stopped


def gone_on(material, half, name, form, processes, degrees):
    shutil.copytree(half(form), material / name)
    return run(material, name, form, processes, degrees, runner_config__batch_size=1,
               resume_training=True)  # fmt: skip


@pytest.mark.large
@pytest.mark.parametrize("form", FORMS)
def test_a_run_goes_on_bit_for_bit_in_the_same_layout(material, half, form):
    tensor = {"model_parallel": 2}
    same = gone_on(material, half, f"same_{form}", form, 2, tensor)
    unbroken = run(material, f"unbroken_{form}", form, 2, tensor, runner_config__batch_size=1)
    assert same.losses == unbroken.losses
    for name, value in unbroken.weights.items():
        np.testing.assert_array_equal(same.weights[name], value)


@pytest.mark.large
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("processes", "degrees"), [(1, {}), (2, {"context_parallel": 2})])
def test_a_run_goes_on_in_another_layout(material, half, one_process, form, processes, degrees):
    other = gone_on(material, half, f"other_{form}_{processes}", form, processes, degrees)
    require_equal(one_process(form, 1, 1), other, STEPS)
