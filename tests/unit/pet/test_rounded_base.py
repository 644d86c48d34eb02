"""LoRA beside weights held in int8 or int4: the numbers are those of plain weights of the rounded values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from mindformers.errors import CheckpointError, ConfigError
from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
from mindformers.modules.rounded_linear import RoundedLinear
from mindformers.pet import get_pet_model, merge_adapter
from mindformers.pet.adapter_files import load_adapter, save_adapter
from mindformers.training.optimizer import AdamW
from mindformers.training.train_step import MFTrainOneStepCell
from tests.support.golden_model import TRAIN_CASE, training_batches
from tests.support.lora import set_adapters
from tests.support.networks import golden_config

BATCHES = [
    dict(zip(("input_ids", "labels"), each, strict=True))
    for each in training_batches(TRAIN_CASE, 3)
]
IDS = BATCHES[0]["input_ids"]
KINDS = ("int8", "int4")
SIZES = {"hidden_size": 64, "ffn_hidden_size": 96}  # rows of whole groups


def network_with_base(folder: Path, **changes) -> ChatGLM2ForConditionalGeneration:
    """Return a network with weights that are drawn once for a folder."""
    base = folder / "base"
    if not base.exists():
        first = ChatGLM2ForConditionalGeneration(golden_config(TRAIN_CASE, **SIZES))
        rng = np.random.default_rng(4)
        for name, parameter in first.weight_parameters().items():
            values = rng.normal(0, 0.1, parameter.shape) + ("norm" in name)
            parameter.set_data(Tensor(values.astype(np.float32)))
        first.save_pretrained(base)
    network = ChatGLM2ForConditionalGeneration(golden_config(TRAIN_CASE, **SIZES, **changes))
    network.load_checkpoint(base)
    return network


def pet(kind: str | None) -> dict:
    return {"pet_type": "lora", "lora_rank": 3, "lora_alpha": 6, "lora_dropout": 0.0,
            "target_modules": ".*query_key_value|.*dense$", "base_quantization": kind}  # fmt: skip


def rounded(folder: Path, kind: str) -> ChatGLM2ForConditionalGeneration:
    network = network_with_base(folder, pet_config=pet(kind))
    set_adapters(network)
    return network


def plain_twin(
    folder: Path, network: ChatGLM2ForConditionalGeneration
) -> ChatGLM2ForConditionalGeneration:
    """Return a network of plain weights with the values the other one computes with, and its adapters."""
    twin = network_with_base(folder, pet_config=pet(None))
    parameters = dict(twin.parameters_and_names())
    cells = dict(network.cells_and_names())
    for name, parameter in parameters.items():
        layer = cells.get(name.removesuffix(".weight"))
        base = getattr(layer, "base", layer)
        if name.endswith(".weight") and isinstance(base, RoundedLinear):
            parameter.set_data(Tensor(base.dense()))
    set_adapters(twin)
    return twin


def logits(network) -> np.ndarray:
    network.set_train(False)
    return network(Tensor(IDS))[0].asnumpy()


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_steps_are_those_of_plain_weights_of_the_same_values(
    kind: str, backend: str, pynative: None, tmp_path: Path
) -> None:
    network = rounded(tmp_path, kind)
    twin = plain_twin(tmp_path, network)
    np.testing.assert_allclose(logits(network), logits(twin), atol=1e-5)
    results = []
    for each in (network, twin):
        each.set_train(True)
        trained = each.trainable_params()
        step = MFTrainOneStepCell(each, AdamW(trained, eps=1e-8))
        losses = [step([batch], 1e-2).loss for batch in BATCHES]
        results.append((losses, {p.name: p.asnumpy() for p in trained}))
    (losses, after), (expected, values) = results
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert after.keys() == values.keys()
    assert all("lora" in name for name in after)
    for name, value in values.items():
        np.testing.assert_allclose(after[name], value, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_rounded_as_a_converted_model_is(kind: str, tmp_path: Path) -> None:
    network, plain = rounded(tmp_path, kind), network_with_base(tmp_path)
    name = "transformer.encoder.layers.1.mlp.dense_4h_to_h"
    layer = dict(network.cells_and_names())[name]
    whole = dict(plain.cells_and_names())[name].weight.asnumpy()
    steps = {"int8": 254, "int4": 12}[kind]
    assert np.abs(layer.dense() - whole).max() <= 1.1 * np.abs(whole).max() / steps
    held = sum(p.nbytes for p in network.weight_parameters().values() if name in p.name)
    assert (
        held == whole.size * {"int8": 1, "int4": 0.5}[kind] + 2 * whole.size // layer.scheme.group
    )
    other = get_pet_model(plain, pet(kind))  # a network that is there already
    set_adapters(other)
    np.testing.assert_array_equal(logits(other), logits(network))


@pytest.mark.parametrize("kind", KINDS)
def test_a_merge_gives_plain_weights_and_the_same_logits(kind: str, tmp_path: Path) -> None:
    network = rounded(tmp_path, kind)
    before = logits(network)
    with pytest.raises(CheckpointError, match="which is not undone"):
        merge_adapter(network, keep_base=True)
    merged = merge_adapter(network)
    np.testing.assert_allclose(logits(merged), before, atol=1e-5)
    assert not any(isinstance(cell, RoundedLinear) for _, cell in merged.cells_and_names())
    again = ChatGLM2ForConditionalGeneration.from_pretrained(
        merged.save_pretrained(tmp_path / "out")
    )
    np.testing.assert_array_equal(logits(again), logits(merged))


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_for_the_rounded_base_they_were_trained_on(kind: str, tmp_path: Path) -> None:
    network = rounded(tmp_path, kind)
    folder = save_adapter(network, tmp_path / "adapter")
    again = load_adapter(network_with_base(tmp_path, pet_config=pet(kind)), folder)
    np.testing.assert_array_equal(logits(again), logits(network))
    with pytest.raises(CheckpointError, match="trained on other weights"):
        load_adapter(network_with_base(tmp_path), folder)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_network(kind: str, tmp_path: Path) -> None:
    network = rounded(tmp_path, kind)
    settings = {"max_new_tokens": 6, "do_sample": False}
    native = network.generate(IDS[:1, :5].tolist(), **settings)
    slow = network.generate(IDS[:1, :5].tolist(), use_past=False, **settings)
    np.testing.assert_array_equal(native, slow)


def test_columns_that_make_no_groups_are_refused() -> None:
    import mindspore as ms

    with pytest.raises(ConfigError, match="base_quantization.*48 columns"):
        RoundedLinear(
            48, 8, has_bias=False, kind="int4", param_dtype=ms.float32, compute_dtype=ms.float32
        )
