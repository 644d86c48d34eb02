"""``get_pet_model`` and ``merge_adapter``: which layers, what is trained, what a merge leaves."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindformers import ChatGLM2ForConditionalGeneration
from mindformers.errors import CheckpointError, ConfigError
from mindformers.pet import LoraConfig, get_pet_model, merge_adapter
from mindformers.pet.lora import lora_layers
from mindformers.training.optimizer import AdamW
from mindformers.training.train_step import MFTrainOneStepCell
from tests.support.golden_model import TRAIN_CASE, training_batches
from tests.support.lora import SPLIT, network_with_base, set_adapters
from tests.support.networks import golden_config

pytestmark = pytest.mark.usefixtures("pynative")
IDS, LABELS = training_batches(TRAIN_CASE, 1)[0]
LAYERS = "transformer.encoder.layers."


def adapted(tmp_path: Path, targets=None, **settings):
    changes = settings.pop("changes", {})
    pet = {"lora_rank": 4, "lora_dropout": 0.0, "target_modules": targets, **settings}
    return network_with_base(tmp_path, pet_config=pet, **changes)


def ends(network) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in lora_layers(network)})


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (".*query_key_value*", ["query_key_value"]),  # upstream's YAML
        (".*wq|.*wk|.*query_key_value", ["query_key_value"]),
        (None, ["query_key_value"]),
        (".*dense", ["dense", "dense_4h_to_h", "dense_h_to_4h"]),  # matched from the start, not to the end
        (["dense"], ["dense"]),
        (["mlp.dense_4h_to_h", "query_key_value"], ["dense_4h_to_h", "query_key_value"]),
        (".*", ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]),  # never the head
    ],
)  # fmt: skip
def test_targets_choose_layers(targets, found: list[str], tmp_path: Path) -> None:
    network = adapted(tmp_path, targets)
    assert ends(network) == found
    assert len(lora_layers(network)) == 2 * len(found)


def test_split_projections_are_the_default_there(tmp_path: Path) -> None:
    assert ends(adapted(tmp_path, changes=SPLIT)) == ["wk", "wq", "wv"]


def test_excluded_layers_have_no_adapter(tmp_path: Path) -> None:
    network = adapted(tmp_path, ".*", exclude_layers=r".*layers\.0\.|.*mlp")
    assert sorted(lora_layers(network)) == [
        f"{LAYERS}1.self_attention.dense",
        f"{LAYERS}1.self_attention.query_key_value",
    ]
    network = adapted(tmp_path, ["dense", "query_key_value"], exclude_layers=["dense"])
    assert ends(network) == ["query_key_value"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"target_modules": ".*query_key_valeu"},
            r"target_modules: '.*query_key_valeu' matches no linear layer; allowed: dense, .*; "
            "did you mean 'query_key_value'",
        ),
        ({"target_modules": ["dense", "q_proj"]}, "'q_proj' matches no linear layer"),
        ({"target_modules": ".*output_layer"}, "matches no linear layer"),
        ({"exclude_layers": ["wq"]}, "exclude_layers: 'wq' matches no linear layer"),
        ({"exclude_layers": ".*"}, "exclude_layers: leaves out every layer"),
        ({"target_modules": "("}, "is no regular expression"),
        ({"target_modules": []}, "is empty"),
        ({"lora_rank": 0}, "lora_rank: found 0; allowed: 1 or more"),
        ({"lora_dropout": 1.0}, "lora_dropout: found 1.0; allowed: less than 1"),
        ({"lora_rnak": 4}, "unknown key 'lora_rnak'; did you mean 'lora_rank'"),
        ({"pet_type": "slora"}, "pet_type: found 'slora'.*allowed: lora, ptuning2"),
        ({"freeze_include": ["*norm*"]}, "freezing only a part of the network is not implemented"),
        ({"param_init_type": "float16"}, "param_init_type"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ChatGLM2ForConditionalGeneration(golden_config(TRAIN_CASE, pet_config=settings))


def test_upstreams_freeze_lists_that_say_what_is_done_are_taken() -> None:
    config = LoraConfig(freeze_include=["*"], freeze_exclude=["*lora*"], pet_type="lora")
    assert (config.lora_rank, config.lora_alpha, config.lora_dropout) == (8, 16, 0.01)
    with pytest.raises(ConfigError, match="unknown key 'rank'"):
        LoraConfig(rank=4)


def test_a_config_object_is_taken_and_the_network_notes_it(tmp_path: Path) -> None:
    plain = network_with_base(tmp_path)
    before = plain.config
    network = get_pet_model(plain, LoraConfig(lora_rank=2, target_modules=["dense"]))
    assert network is plain
    assert network.config.pet_config["lora_rank"] == 2
    assert before.pet_config is None
    with pytest.raises(ConfigError, match="has adapters already"):
        get_pet_model(network, LoraConfig())
    config = golden_config(TRAIN_CASE, pet_config=LoraConfig(lora_rank=3))
    assert len(lora_layers(ChatGLM2ForConditionalGeneration(config))) == 2


def test_names_are_upstreams_and_the_others_stay_as_they_were(tmp_path: Path) -> None:
    plain, network = network_with_base(tmp_path), adapted(tmp_path, ".*")
    names = {name: parameter.name for name, parameter in network.parameters_and_names()}
    assert all(path == name for path, name in names.items())
    added = set(names) - {name for name, _ in plain.parameters_and_names()}
    assert added == {
        f"{layer}.mindpet_delta_lora_{part}" for layer in lora_layers(network) for part in "ab"
    }
    assert {p.name for p in network.trainable_params()} == added
    assert set(network.weight_parameters()) == set(plain.weight_parameters())


def test_a_training_step_moves_the_adapters_alone(mode: int, tmp_path: Path) -> None:
    network = adapted(tmp_path, ".*")
    optimizer = AdamW(network.trainable_params(), weight_decay=0.1)
    assert len(optimizer.state_parameters()) == 2 * 2 * len(lora_layers(network))
    step = MFTrainOneStepCell(network, optimizer)
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    losses = [step([{"input_ids": IDS, "labels": LABELS}], 1e-2).loss for _ in range(4)]
    moved = {p.name for p in network.get_parameters() if (p.asnumpy() != before[p.name]).any()}
    assert moved == {p.name for p in network.trainable_params()}
    assert losses[-1] < losses[0]


def test_merging_gives_an_ordinary_network_with_the_same_logits(mode: int, tmp_path: Path) -> None:
    network = adapted(tmp_path, ".*")
    set_adapters(network)
    network.set_train(False)
    before = network(Tensor(IDS))[0].asnumpy()
    plain = network_with_base(tmp_path)
    plain.set_train(False)
    assert np.abs(before - plain(Tensor(IDS))[0].asnumpy()).max() > 1e-2
    merged = merge_adapter(network)
    np.testing.assert_allclose(merged(Tensor(IDS))[0].asnumpy(), before, rtol=1e-5, atol=1e-5)
    assert merged.config.pet_config is None
    assert not lora_layers(merged)
    assert {p.name for p in merged.trainable_params()} == set(plain.weight_parameters())
    saved = merged.save_pretrained(tmp_path / "merged")
    again = ChatGLM2ForConditionalGeneration.from_pretrained(saved)
    again.set_train(False)
    np.testing.assert_allclose(again(Tensor(IDS))[0].asnumpy(), before, rtol=1e-5, atol=1e-5)


def test_a_network_that_has_run_sees_its_new_adapters(mode: int, tmp_path: Path) -> None:
    network = network_with_base(tmp_path)
    network.set_train(False)
    before = network(Tensor(IDS))[0].asnumpy()
    get_pet_model(network, LoraConfig(lora_rank=4, target_modules=["dense"]))
    set_adapters(network)
    network.set_train(False)
    assert np.abs(network(Tensor(IDS))[0].asnumpy() - before).max() > 1e-2


def test_a_merge_that_does_not_fit_the_type_leaves_the_network_alone(tmp_path: Path) -> None:
    network = adapted(tmp_path, ["dense"], changes={"param_init_type": "float16"})
    set_adapters(network)
    last = network.transformer.encoder.layers[1].self_attention.dense
    last.mindpet_delta_lora_b.set_data(last.mindpet_delta_lora_b * 1e9)
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    with pytest.raises(
        CheckpointError, match="base and adapter together are not finite in Float16"
    ):
        merge_adapter(network)
    assert len(lora_layers(network)) == 2
    for parameter in network.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name])


def test_there_is_nothing_to_merge_without_adapters(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no adapters"):
        merge_adapter(network_with_base(tmp_path))


def test_recomputed_layers_give_the_same_gradients(backend: str, tmp_path: Path) -> None:
    grads = []
    for count in (0, 2):
        network = adapted(tmp_path, ".*")
        for layer in lora_layers(network).values():
            layer.mindpet_delta_lora_a.set_data(
                ms.ops.full(layer.mindpet_delta_lora_a.shape, 0.1, dtype=ms.float32)
            )
        set_adapters(network)
        network.recompute_layers(count)
        step = MFTrainOneStepCell(network, AdamW(network.trainable_params()))
        grads.append(step.gradients({"input_ids": IDS, "labels": LABELS})[1])
    for plain, again in zip(*grads, strict=True):
        np.testing.assert_allclose(again.asnumpy(), plain.asnumpy(), rtol=1e-6, atol=1e-8)
