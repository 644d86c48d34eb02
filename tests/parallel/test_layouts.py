"""Several processes give what one gives: losses, norms, weights; by the published command line.

``tests/support/shared_runs.py`` says what is run: the published YAML, its model made small.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mindformers.checkpoint.loading import open_file, open_joined
from tests.support.shared_runs import (
    WEIGHT,
    finetune,
    launch,
    outcome,
    require_equal,
    write_rows,
    write_start,
)

WHOLE = {"parallel__enable_parallel_optimizer": False}
SHARDED = {"parallel__enable_parallel_optimizer": True}
# The network of GLM-4-32B-0414: norms behind attention and MLP, no biases.
AFTER_NORMS = {"post_self_attn_layernorm": True, "post_mlp_layernorm": True, "add_qkv_bias": False}
LONG = {"seq_length": 48}  # three documents a row
PACKED = {"train_dataset__packing": True, "network": LONG}


@pytest.fixture(scope="module")
def material(tmp_path_factory, request) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    write_rows(folder / "rows.mindrecord")
    write_start(folder / "start4")
    write_start(folder / "start9", num_layers=9)
    write_start(folder / "start_0414", **AFTER_NORMS)
    return folder


@pytest.fixture(scope="module")
def one_process(material):
    """Return the run of one process with a batch and so many micro batches; each is made once."""
    made = {}

    def run(batch: int, micro: int, start: str, network: dict, is_packed: bool = False):
        kind = {k: v for k, v in network.items() if k != "offset"}
        key = (batch, micro, is_packed, *sorted(kind.items()))
        if key not in made:
            made[key] = finetune(
                material / "rows.mindrecord", material / f"one_{len(made)}",
                load_checkpoint=str(material / start), network=kind,
                runner_config__batch_size=batch, runner_config__gradient_accumulation_steps=micro,
                runner_config__epochs=3, train_dataset__packing=is_packed,
                train_dataset__cache_dir=str(material / "cache"), **WHOLE,
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
    start = "start_0414" if network.keys() >= AFTER_NORMS.keys() else f"start{layers}"
    shared = finetune(
        material / "rows.mindrecord", material / name, processes=count, parallel=degrees,
        load_checkpoint=str(material / start), network=network,
        runner_config__batch_size=1, runner_config__gradient_accumulation_steps=accumulated,
        runner_config__epochs=3, train_dataset__cache_dir=str(material / "cache"),
        **{**WHOLE, **settings},
    )  # fmt: skip
    whole = one_process(
        degrees.get("data_parallel", 1),
        degrees.get("micro_batch_num", 1) * accumulated,
        start,
        network,
        settings.get("train_dataset__packing", False),
    )
    require_equal(whole, shared)
    return shared


QUICK = [
    ("dp2", {"data_parallel": 2}, {"accumulated": 2}),
    ("tp2", {"model_parallel": 2},
     {"callbacks__1__save_network_params": True, "callbacks__1__integrated_save": False}),
    ("pp2", {"pipeline_stage": 2, "micro_batch_num": 4}, {}),
    ("cp2", {"context_parallel": 2}, {}),
    ("sp", {"model_parallel": 2, "use_seq_parallel": True, "vocab_emb_dp": False},
     {"callbacks__1__save_network_params": True, "callbacks__1__integrated_save": True}),
    ("zero", {"data_parallel": 2}, SHARDED),
    ("dp2_tp2", {"data_parallel": 2, "model_parallel": 2, "use_seq_parallel": True}, SHARDED),
]  # fmt: skip
SLOW = [
    ("sp_0414", {"model_parallel": 2, "use_seq_parallel": True, "vocab_emb_dp": False},
     {"network": AFTER_NORMS}),
    ("packed_pp2", {"pipeline_stage": 2, "micro_batch_num": 2}, PACKED),
    ("packed_dp2", {"data_parallel": 2}, PACKED),
    ("packed_cp2_tp2", {"context_parallel": 2, "model_parallel": 2, "use_seq_parallel": True}, PACKED),
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


def finished(material, one_process, name) -> Path:
    """Return the folder of one of the quick runs, made now if its test was not run."""
    if not (material / name / "checkpoint").is_dir():
        degrees, settings = next(rest for each, *rest in QUICK if each == name)
        compare(material, one_process, name, degrees, **settings)
    return material / name


def test_a_run_goes_on_in_the_same_and_in_another_layout(material, one_process):
    unbroken = outcome(finished(material, one_process, "zero"))
    data, half = material / "rows.mindrecord", material / "half"
    same = {"processes": 2, "parallel": {"data_parallel": 2}, "runner_config__epochs": 3,
            "runner_config__batch_size": 1, **SHARDED}  # fmt: skip
    finetune(data, half, steps=3, load_checkpoint=str(material / "start4"), **same)
    shutil.copytree(half, material / "elsewhere")
    gone_on = finetune(data, half, resume_training=True, **same)
    assert gone_on.losses == unbroken.losses
    for name, value in unbroken.weights.items():
        np.testing.assert_array_equal(gone_on.weights[name], value)
    other = {**same, "parallel": {"model_parallel": 2}, **WHOLE, "runner_config__batch_size": 2}
    require_equal(unbroken, finetune(data, material / "elsewhere", resume_training=True, **other))


def test_the_weights_alone_are_one_whole_file_or_a_share_of_each_rank(material, one_process):
    whole = finished(material, one_process, "sp")
    parts = finished(material, one_process, "tp2")
    alone = list((whole / "checkpoint_network").rglob("*rank_*-*"))
    assert [path.parent.name for path in alone] == ["rank_0"]
    shares = sorted((parts / "checkpoint_network").rglob("*rank_*-*"))
    assert [path.parent.name for path in shares] == ["rank_0", "rank_1"]
    names = [str(path.relative_to(parts)) for path in shares]
    with open_file(alone[0]) as file, open_joined(parts, names) as joined:
        for found, run in ((file, whole), (joined, parts)):
            expected = outcome(run).weights
            assert set(found.tensors) == set(expected)
            for name, value in expected.items():
                np.testing.assert_array_equal(found.read(name), value)


FROZEN = {"freeze_include": ["*embedding*"], "lr_scales": {"*.mlp.*": 0.5}, "ema_decay": 0.8}
OTHERS = [
    ("zero_sgd", {"data_parallel": 2}, SHARDED,
     {"type": "SGD", "momentum": 0.9, "learning_rate": 1e-3, "weight_decay": 0.1, **FROZEN}),
    ("pp2_muon", {"pipeline_stage": 2, "micro_batch_num": 2}, WHOLE,
     {"type": "Muon", "learning_rate": 1e-3, "adamw_eps": 1e-6, **FROZEN}),
    ("dp2_adafactor", {"data_parallel": 2}, WHOLE,
     {"type": "Adafactor", "learning_rate": 1e-3, "beta1": 0.9,
      "eps": [1e-12, 1e-3], **FROZEN}),
]  # fmt: skip


@pytest.mark.large
@pytest.mark.parametrize(
    ("name", "degrees", "shares", "optimizer"), OTHERS, ids=[each[0] for each in OTHERS]
)
def test_the_other_optimizers_do_the_same_in_several_processes(
    material, name, degrees, shares, optimizer
):
    runs = []
    for processes, parallel in ((1, {}), (2, degrees)):
        copies = parallel.get("data_parallel", 1)
        micro = 2 if processes == 1 and copies == degrees.get("data_parallel", 1) else 1
        runs.append(finetune(
            material / "rows.mindrecord", material / f"{name}_{processes}", processes=processes,
            steps=4, parallel=parallel, load_checkpoint=str(material / "start4"),
            optimizer=optimizer, layer_scale=True, layer_decay=0.9,
            runner_config__batch_size=degrees.get("data_parallel", 1) // copies,
            runner_config__gradient_accumulation_steps=micro, **(shares if processes > 1 else WHOLE),
        ))  # fmt: skip
    require_equal(*runs, steps=4)
    whole, shared = (_state(each.folder) for each in runs)
    assert whole.keys() == shared.keys()
    assert any(key.startswith("ema.") for key in whole)
    for key, value in whole.items():
        np.testing.assert_allclose(shared[key], value, atol=WEIGHT, err_msg=key)


def _state(folder: Path) -> dict[str, np.ndarray]:
    """Read the optimizer's state of the newest step, joined."""
    step = sorted((folder / "checkpoint").glob("step_*"))[-1]
    files = [str(file.relative_to(step)) for file in sorted(step.glob("rank_*/optimizer*"))]
    with open_joined(step, files) as stored:
        return {name: stored.read(name) for name in stored.tensors}


def test_rank_folders_become_one_huggingface_directory(material, one_process):
    step = sorted((finished(material, one_process, "dp2_tp2") / "checkpoint").glob("step_*"))
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
