"""Values and files of peft on GlmForCausalLM (goldens of scripts/make_lora_goldens.py)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file

from mindformers.pet.adapter_files import load_adapter, save_adapter
from mindformers.training.optimizer import AdamW
from mindformers.training.train_step import MFTrainOneStepCell
from tests.support.compare import assert_close
from tests.support.golden_model import TRAIN_CASE, training_batches
from tests.support.lora import SPLIT, golden, network_with_base, peft_folder

pytestmark = pytest.mark.parity
NAMES = ("every_layer", "rslora", "patterns")
BATCHES = training_batches(TRAIN_CASE, 3)
OUR_NAMES = (
    ("base_model.model.model.layers", "transformer.encoder.layers"),
    ("self_attn.q_proj", "self_attention.wq"),
    ("self_attn.k_proj", "self_attention.wk"),
    ("self_attn.v_proj", "self_attention.wv"),
    ("self_attn.o_proj", "self_attention.dense"),
    ("gate_up_proj", "dense_h_to_4h"),
    ("down_proj", "dense_4h_to_h"),
    ("lora_A.weight", "mindpet_delta_lora_a"),
    ("lora_B.weight", "mindpet_delta_lora_b"),
)


def of_kind(name: str, kind: str) -> dict[str, np.ndarray]:
    """Return the golden arrays of a kind under our names."""
    found = {}
    for key, array in golden(name).items():
        if key.startswith(f"{kind}/"):
            ours = key.removeprefix(f"{kind}/")
            for theirs, own in OUR_NAMES:
                ours = ours.replace(theirs, own)
            found[ours] = array
    return found


@pytest.mark.parametrize("name", NAMES)
def test_pefts_adapters_give_pefts_logits(name: str, mode: int, tmp_path: Path) -> None:
    network = network_with_base(tmp_path, **SPLIT)
    load_adapter(network, peft_folder(tmp_path / "adapter", name))
    network.set_train(False)
    logits = network(Tensor(BATCHES[0][0]))[0].asnumpy()
    assert_close(logits, golden(name)["logits"], 1e-5, name)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_updates_are_those_of_peft(
    name: str, backend: str, pynative: None, tmp_path: Path
) -> None:
    network = network_with_base(tmp_path, **SPLIT)
    load_adapter(network, peft_folder(tmp_path / "adapter", name, lora_dropout=0.0))
    trained = network.trainable_params()
    step = MFTrainOneStepCell(
        network, AdamW(trained, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    )
    batches = [dict(zip(("input_ids", "labels"), each, strict=True)) for each in BATCHES]
    loss, grads = step.gradients(batches[0])
    expected = of_kind(name, "grad")
    assert sorted(expected) == sorted(parameter.name for parameter in trained)
    for parameter, grad in zip(trained, grads, strict=True):
        assert_close(grad.asnumpy(), expected[parameter.name], 1e-5, parameter.name)
    losses = [step([batch], 1e-2).loss for batch in batches]
    assert losses[0] == pytest.approx(loss, rel=1e-6)
    assert_close(np.array(losses), golden(name)["losses"], 1e-5)
    after = of_kind(name, "after")
    for parameter in trained:
        assert_close(parameter.asnumpy(), after[parameter.name], 1e-4, parameter.name)


def by_pattern(layer: str, rank: int, ranks: dict, alphas: dict, alpha: float) -> tuple:
    """Return rank and alpha of a layer, by peft's rule for patterns."""

    def found(pattern: dict, default: float) -> float:
        return next((v for k, v in pattern.items() if re.match(rf"(.*\.)?({k})$", layer)), default)

    return found(ranks, rank), found(alphas, alpha)


@pytest.mark.parametrize("name", NAMES)
def test_what_we_save_is_what_peft_saves(name: str, pynative: None, tmp_path: Path) -> None:
    network = network_with_base(tmp_path, **SPLIT)
    load_adapter(network, peft_folder(tmp_path / "theirs", name))
    folder = save_adapter(network, tmp_path / "ours")
    saved = load_file(folder / "adapter_model.safetensors")
    expected = {
        key.removeprefix("saved/"): value
        for key, value in golden(name).items()
        if key.startswith("saved/")
    }
    assert sorted(saved) == sorted(expected)
    for key, array in saved.items():
        np.testing.assert_array_equal(array, expected[key])
    ours = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    theirs = json.loads(str(golden(name)["config"]))
    theirs["target_modules"] = sorted(theirs["target_modules"])
    ours.pop("base_model_name_or_path")
    meant, written = (  # peft keeps the expressions it was given; we write whole names
        [(each.pop("r"), each.pop("rank_pattern"), each.pop("alpha_pattern"), each["lora_alpha"])
         for each in (theirs, ours)]
    )  # fmt: skip
    for layer in {key.removeprefix("base_model.model.").partition(".lora_")[0] for key in saved}:
        assert by_pattern(layer, *meant) == by_pattern(layer, *written)
    assert ours == {key: theirs[key] for key in ours}
