"""Adapters on disk: layouts, what fits what, and what is refused. Values of peft: tests/parity/test_peft.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file, save_file

from mindformers.errors import CheckpointError, ConfigError
from mindformers.pet import load_adapter, save_adapter
from mindformers.pet.adapter_source import holds_adapters
from mindformers.pet.identity import base_mark
from mindformers.pet.lora import lora_layers
from tests.support.golden_model import TRAIN_CASE, training_batches
from tests.support.lora import SPLIT, base_file, network_with_base, peft_folder, set_adapters

pytestmark = pytest.mark.usefixtures("pynative")
IDS = Tensor(training_batches(TRAIN_CASE, 1)[0][0])
LORA = {"lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0}


def adapted(tmp_path: Path, targets, **changes):
    network = network_with_base(tmp_path, pet_config={**LORA, "target_modules": targets}, **changes)
    set_adapters(network)
    network.set_train(False)
    return network


def logits(network) -> np.ndarray:
    network.set_train(False)
    return network(IDS)[0].asnumpy()


def described(folder: Path) -> dict:
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("layout", ["glm", "chatglm", "mindformers", None])
def test_saved_adapters_come_back(layout: str | None, tmp_path: Path) -> None:
    network = adapted(tmp_path, ".*")
    folder = save_adapter(network, tmp_path / "adapter", layout)
    assert described(folder)["base_model_name_or_path"] == str(base_file(tmp_path))
    for changes in ({}, {"pet_config": {**LORA, "target_modules": ".*"}}):
        again = load_adapter(network_with_base(tmp_path, **changes), folder)
        np.testing.assert_array_equal(logits(again), logits(network))


def test_a_fused_adapter_is_one_of_each_part_in_the_published_layout(tmp_path: Path) -> None:
    network = adapted(tmp_path, ["query_key_value"])
    folder = save_adapter(network, tmp_path / "adapter")
    assert described(folder)["target_modules"] == ["k_proj", "q_proj", "v_proj"]
    found = load_file(folder / "adapter_model.safetensors")
    stem = "base_model.model.model.layers.1.self_attn."
    own = network.transformer.encoder.layers[1].self_attention.query_key_value
    for part in "qkv":
        np.testing.assert_array_equal(
            found[f"{stem}{part}_proj.lora_A.weight"], own.mindpet_delta_lora_a.asnumpy()
        )
    parts = [found[f"{stem}{part}_proj.lora_B.weight"] for part in "qkv"]
    np.testing.assert_array_equal(np.concatenate(parts), own.mindpet_delta_lora_b.asnumpy())
    split = load_adapter(network_with_base(tmp_path, **SPLIT), folder)
    np.testing.assert_allclose(logits(split), logits(network), rtol=1e-5, atol=1e-5)
    fused = save_adapter(network, tmp_path / "fused", "chatglm")
    assert sorted(load_file(fused / "adapter_model.safetensors"))[0] == (
        "base_model.model.transformer.encoder.layers.0.self_attention.query_key_value.lora_A.weight"
    )


def test_adapters_of_the_parts_are_none_of_the_fused_weight(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "adapter", "rslora")
    with pytest.raises(
        CheckpointError, match="are not one adapter of .*query_key_value.*qkv_concat"
    ):
        load_adapter(network_with_base(tmp_path), folder)
    network = adapted(tmp_path, ["wq"], **SPLIT)
    with pytest.raises(CheckpointError, match="layout chatglm: the adapters of .*wq are not one"):
        save_adapter(network, tmp_path / "fused", "chatglm")


def test_gate_and_up_apart_are_saved_under_our_names(tmp_path: Path) -> None:
    network = adapted(tmp_path, ["dense_left", "dense_right"], mlp_concat=False)
    folder = save_adapter(network, tmp_path / "adapter")
    assert described(folder)["target_modules"] == ["dense_left", "dense_right"]
    again = load_adapter(network_with_base(tmp_path, mlp_concat=False), folder)
    np.testing.assert_array_equal(logits(again), logits(network))


def test_layers_that_are_left_out_are_named_one_by_one(tmp_path: Path) -> None:
    network = adapted(tmp_path, r".*layers\.1\..*dense$")
    folder = save_adapter(network, tmp_path / "adapter")
    assert described(folder)["target_modules"] == ["model.layers.1.self_attn.o_proj"]
    again = load_adapter(network_with_base(tmp_path), folder)
    assert list(lora_layers(again)) == ["transformer.encoder.layers.1.self_attention.dense"]


def test_the_wrong_base_is_refused(tmp_path: Path) -> None:
    folder = save_adapter(adapted(tmp_path, ".*"), tmp_path / "adapter")
    other = network_with_base(tmp_path)
    other.transformer.encoder.layers[1].mlp.dense_4h_to_h.weight.asnumpy()[3, 4] += 0.5
    with pytest.raises(CheckpointError, match="trained on other weights than the network holds"):
        load_adapter(other, folder)


def test_the_mark_of_the_base_is_the_same_in_every_layout_and_with_adapters(tmp_path: Path) -> None:
    mark = base_mark(network_with_base(tmp_path))
    assert base_mark(network_with_base(tmp_path, **SPLIT, mlp_concat=False)) == mark
    assert base_mark(adapted(tmp_path, ".*")) == mark
    assert base_mark(network_with_base(tmp_path, param_init_type="bfloat16")) != mark


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'; allowed: 'LORA'"),
        ({"use_dora": True}, "use_dora True is not implemented"),
        ({"bias": "all"}, "bias 'all' is not implemented"),
        ({"rank_pattern": {"q_proj": 2}}, "A has 4 rows; allowed: 2, by the rank in the settings"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_kinds_that_are_not_implemented_are_refused(
    change: dict, message: str, tmp_path: Path
) -> None:
    folder = peft_folder(tmp_path / "adapter", "rslora", **change)
    with pytest.raises(CheckpointError, match=message):
        load_adapter(network_with_base(tmp_path, **SPLIT), folder)


def spoiled(folder: Path, **arrays: np.ndarray | None) -> Path:
    path = folder / "adapter_model.safetensors"
    tensors = {**load_file(path), **arrays}
    save_file({name: array for name, array in tensors.items() if array is not None}, path)
    return folder


def test_damaged_adapters_are_refused(tmp_path: Path) -> None:
    network = network_with_base(tmp_path, **SPLIT)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"

    def fresh() -> Path:
        return peft_folder(tmp_path / "adapter", "rslora")

    with pytest.raises(
        CheckpointError, match=r"A or B of model.layers.0.self_attn.q_proj is missing"
    ):
        load_adapter(network, spoiled(fresh(), **{name.format("B"): None}))
    with pytest.raises(CheckpointError, match=r"allowed: A \(r, 32\) and B \(64, r\)"):
        load_adapter(network, spoiled(fresh(), **{name.format("A"): np.ones((4, 31), np.float32)}))
    bad = np.full((4, 32), np.nan, np.float32)
    with pytest.raises(CheckpointError, match=r"q_proj.lora_A.weight"):
        load_adapter(network, spoiled(fresh(), **{name.format("A"): bad}))
    with pytest.raises(CheckpointError, match="lm_head.weight is no part of an adapter"):
        load_adapter(network, spoiled(fresh(), **{"lm_head.weight": bad}))
    assert not lora_layers(network)


def test_other_settings_than_the_networks_are_refused(tmp_path: Path) -> None:
    folder = save_adapter(adapted(tmp_path, ".*dense$"), tmp_path / "adapter")
    for settings, message in (
        ({**LORA, "lora_alpha": 16}, "rank 4 and scale 2; allowed: rank 4 and scale 4"),
        ({**LORA, "lora_rank": 2}, "rank 4 and scale 2; allowed: rank 2 and scale 4"),
        ({**LORA, "target_modules": ".*"}, "6 layers with an adapter are not in it"),
    ):
        network = network_with_base(tmp_path, pet_config={"target_modules": ".*dense$", **settings})
        with pytest.raises(ConfigError, match=message):
            load_adapter(network, folder)


def test_load_checkpoint_of_adapters_loads_their_base_too(tmp_path: Path) -> None:
    network = adapted(tmp_path, ".*")
    folder = network.save_pretrained(tmp_path / "adapter")
    assert holds_adapters(folder)
    assert not holds_adapters(base_file(tmp_path))
    again = type(network)(type(network.config)(**{**network.config.to_dict(), "pet_config": None}))
    again.load_checkpoint(folder)
    np.testing.assert_array_equal(logits(again), logits(network))


def test_a_base_that_is_gone_is_named(tmp_path: Path) -> None:
    folder = save_adapter(adapted(tmp_path, ".*"), tmp_path / "adapter")
    network = network_with_base(tmp_path)
    base_file(tmp_path).unlink()
    with pytest.raises(
        CheckpointError, match=r"are not at '.*base.safetensors'.*checkpoint_name_or"
    ):
        network.load_checkpoint(folder)
    with pytest.raises(CheckpointError, match="has no adapters"):
        save_adapter(network, tmp_path / "none")
