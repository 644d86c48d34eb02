"""Several processes give what one gives: losses, norms, weights; by the published command line.

``tests/support/shared_runs.py`` says what is run: the published YAML, its model made small.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.shared_runs import (
    finetune,
    largest_differences,
    launch,
    outcome,
    write_rows,
    write_start,
)

LOSS, NORM, WEIGHT = 1e-5, 1e-5, 1e-4  # relative, relative, absolute
WHOLE = {"parallel__enable_parallel_optimizer": False}
SHARDED = {"parallel__enable_parallel_optimizer": True}


@pytest.fixture(scope="module")
def material(tmp_path_factory, request) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    write_rows(folder / "rows.mindrecord")
    write_start(folder / "start4")
    write_start(folder / "start9", num_layers=9)
    return folder


@pytest.fixture(scope="module")
def one_process(material):
    """Return the run of one process with a batch and so many micro batches; each is made once."""
    made = {}

    def run(batch: int, micro: int, layers: int = 4, is_fused: bool = True):
        key = (batch, micro, layers, is_fused)
        if key not in made:
            made[key] = finetune(
                material / "rows.mindrecord", material / f"one_{batch}_{micro}_{layers}_{is_fused}",
                load_checkpoint=str(material / f"start{layers}"),
                network={"num_layers": layers, "qkv_concat": is_fused, "mlp_concat": is_fused},
                runner_config__batch_size=batch, runner_config__gradient_accumulation_steps=micro,
                runner_config__epochs=3, **WHOLE,
            )  # fmt: skip
        return made[key]

    return run


def compare(material, one_process, name, degrees, *, layers=4, **settings):
    count = int(
        np.prod([degrees.get(f"{each}_parallel", 1) for each in ("data", "model", "context")])
    )
    count *= degrees.get("pipeline_stage", 1)
    accumulated = settings.pop("accumulated", 1)
    network = {"num_layers": layers, **settings.pop("network", {})}
    shared = finetune(
        material / "rows.mindrecord", material / name, processes=count, parallel=degrees,
        load_checkpoint=str(material / f"start{layers}"), network=network,
        runner_config__batch_size=1, runner_config__gradient_accumulation_steps=accumulated,
        runner_config__epochs=3, **{**WHOLE, **settings},
    )  # fmt: skip
    whole = one_process(
        degrees.get("data_parallel", 1),
        degrees.get("micro_batch_num", 1) * accumulated,
        layers,
        network.get("qkv_concat", True),
    )
    loss, norm, weight = largest_differences(whole, shared)
    print(f"{name}: loss {loss:.1e}, norm {norm:.1e}, weights {weight:.1e}")
    assert len(shared.losses) == 20
    assert loss <= LOSS
    assert norm <= NORM
    assert weight <= WEIGHT
    return shared


QUICK = [
    ("dp2", {"data_parallel": 2}, {"accumulated": 2}),
    ("tp2", {"model_parallel": 2}, {}),
    ("pp2", {"pipeline_stage": 2, "micro_batch_num": 4}, {}),
    ("cp2", {"context_parallel": 2}, {}),
    ("sp", {"model_parallel": 2, "use_seq_parallel": True, "vocab_emb_dp": False}, {}),
    ("zero", {"data_parallel": 2}, SHARDED),
    ("dp2_tp2", {"data_parallel": 2, "model_parallel": 2, "use_seq_parallel": True}, SHARDED),
]  # fmt: skip
SLOW = [
    ("tp4", {"model_parallel": 4}, {}),
    ("tp4_sp", {"model_parallel": 4, "use_seq_parallel": True}, {}),
    ("tp2_split", {"model_parallel": 2},
     {"network": {"qkv_concat": False, "mlp_concat": False}}),
    ("pp4", {"pipeline_stage": 4, "micro_batch_num": 4}, {}),
    ("pp2_dp2", {"pipeline_stage": 2, "data_parallel": 2, "micro_batch_num": 2}, {}),
    ("pp2_tp2", {"pipeline_stage": 2, "model_parallel": 2, "micro_batch_num": 2}, {}),
    ("cp2_tp2", {"context_parallel": 2, "model_parallel": 2, "use_seq_parallel": True}, {}),
    ("cp2_dp2", {"context_parallel": 2, "data_parallel": 2}, SHARDED),
    ("pp2_tp2_dp2",
     {"pipeline_stage": 2, "model_parallel": 2, "data_parallel": 2, "micro_batch_num": 2}, SHARDED),
    ("published",
     {"data_parallel": 2, "pipeline_stage": 4, "micro_batch_num": 4, "use_seq_parallel": True,
      "vocab_emb_dp": False},
     {**SHARDED, "layers": 9, "network": {"offset": [-1, 0, 2, 0]},
      "recompute_config__recompute": [1, 1, 2, 0]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "degrees", "settings"), QUICK, ids=[each[0] for each in QUICK])
def test_a_layout_equals_one_process(material, one_process, name, degrees, settings):
    compare(material, one_process, name, degrees, **settings)


@pytest.mark.large
@pytest.mark.parametrize(("name", "degrees", "settings"), SLOW, ids=[each[0] for each in SLOW])
def test_a_larger_layout_equals_one_process(material, one_process, name, degrees, settings):
    compare(material, one_process, name, degrees, **settings)


def test_a_run_goes_on_in_the_same_and_in_another_layout(material):
    data, common = material / "rows.mindrecord", {"runner_config__batch_size": 1}
    mix = {"parallel": {"data_parallel": 2, "model_parallel": 1}, **SHARDED, **common}
    start = {"load_checkpoint": str(material / "start4")}
    whole = finetune(data, material / "unbroken", processes=2, steps=6, **mix, **start)
    half = material / "half"
    finetune(data, half, processes=2, steps=3, **mix, **start)
    shutil.copytree(half, material / "elsewhere")
    same = finetune(data, half, processes=2, steps=6, resume_training=True, **mix)
    assert same.losses == whole.losses
    for name, value in whole.weights.items():
        np.testing.assert_array_equal(same.weights[name], value)
    tensor = {"parallel": {"model_parallel": 2}, **WHOLE, "runner_config__batch_size": 2}
    other = finetune(
        data, material / "elsewhere", processes=2, steps=6, resume_training=True, **tensor
    )
    loss, norm, weight = largest_differences(whole, other)
    assert loss <= LOSS
    assert norm <= NORM
    assert weight <= WEIGHT


def test_rank_folders_become_one_huggingface_directory(material, one_process):
    step = sorted((material / "dp2_tp2" / "checkpoint").glob("step_*"))
    if not step:
        compare(material, one_process, "dp2_tp2", QUICK[-1][1], **QUICK[-1][2])
        step = sorted((material / "dp2_tp2" / "checkpoint").glob("step_*"))
    assert {path.name for path in step[-1].glob("rank_*")} == {f"rank_{rank}" for rank in range(4)}
    merged = material / "merged"
    launch(
        ["convert_weight.py", "--model", "glm4", "--reversed", "--config",
         str(step[-1] / "config.yaml"), "--input_path", str(step[-1]), "--output_path", str(merged)],
        1, material,
    )  # fmt: skip
    from safetensors.numpy import load_file

    stored = load_file(merged / "model.safetensors")
    whole = outcome(material / "dp2_tp2").weights
    np.testing.assert_array_equal(
        stored["model.layers.3.self_attn.o_proj.weight"],
        whole["transformer.encoder.layers.3.self_attention.dense.weight"],
    )
