"""Adapters merged and taken out again, taken off, and several of them on one network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from mindformers.errors import CheckpointError, ConfigError
from mindformers.pet import AdapterSet, merge_adapter, remove_adapter, unmerge_adapter
from mindformers.pet.adapter_files import load_adapter, save_adapter
from mindformers.pet.lora import lora_layers
from tests.support.golden_model import TRAIN_CASE, training_batches
from tests.support.lora import SPLIT, golden, network_with_base, peft_folder, set_adapters

IDS = training_batches(TRAIN_CASE, 1)[0][0]
PET = {"pet_type": "lora", "lora_rank": 3, "lora_alpha": 6, "target_modules": ["dense"]}


def logits(network) -> np.ndarray:
    network.set_train(False)
    return network(Tensor(IDS))[0].asnumpy()


def test_a_merge_that_kept_the_base_is_undone_bit_for_bit(mode: int, tmp_path: Path) -> None:
    network = network_with_base(tmp_path, pet_config=PET, param_init_type="bfloat16")
    set_adapters(network)
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    with_adapters = logits(network)
    merge_adapter(network, keep_base=True)
    assert not lora_layers(network)
    assert np.abs(logits(network) - with_adapters).max() < 5e-2  # weights rounded to bfloat16
    unmerge_adapter(network)
    after = {p.name: p.asnumpy() for p in network.get_parameters()}
    assert sorted(after) == sorted(before)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    np.testing.assert_array_equal(logits(network), with_adapters)
    assert all("lora" in p.name for p in network.trainable_params())
    with pytest.raises(CheckpointError, match="nothing was merged that could be undone"):
        unmerge_adapter(network)


def test_adapters_that_are_taken_off_leave_the_base(mode: int, tmp_path: Path) -> None:
    plain = logits(network_with_base(tmp_path))
    network = network_with_base(tmp_path, pet_config=PET)
    set_adapters(network)
    assert np.abs(logits(network) - plain).max() > 1e-3
    remove_adapter(network)
    np.testing.assert_array_equal(logits(network), plain)
    assert network.config.pet_config is None


def test_several_adapters_take_turns_and_each_gives_what_it_gives_alone(tmp_path: Path) -> None:
    names = ("every_layer", "rslora", "patterns")
    network = network_with_base(tmp_path, **SPLIT)
    plain, held = logits(network), AdapterSet(network)
    for name in names:
        held.add(name, peft_folder(tmp_path / name, name))
    assert held.names == list(names)
    for name in (*names, "every_layer"):
        held.use(name)
        assert held.active == name
        np.testing.assert_allclose(logits(network), golden(name)["logits"], atol=1e-5)
    held.use(None)
    np.testing.assert_array_equal(logits(network), plain)
    with pytest.raises(ConfigError, match="no adapter 'rslor'; allowed: every_layer, rslora"):
        held.use("rslor")
    with pytest.raises(ConfigError, match="there is an adapter 'rslora' already"):
        held.add("rslora", tmp_path / "rslora")


def test_answers_follow_the_adapter_in_use(tmp_path: Path) -> None:
    network = network_with_base(tmp_path, pet_config=PET)
    set_adapters(network)
    folder = save_adapter(network, tmp_path / "one")
    prompt = IDS[:1, :6].tolist()
    expected = network.generate(prompt, max_new_tokens=8, do_sample=False)
    switched = network_with_base(tmp_path)
    plain = switched.generate(prompt, max_new_tokens=8, do_sample=False)
    held = AdapterSet(switched)
    held.add("one", folder)
    held.use("one")
    np.testing.assert_array_equal(
        switched.generate(prompt, max_new_tokens=8, do_sample=False), expected
    )
    held.use(None)
    np.testing.assert_array_equal(
        switched.generate(prompt, max_new_tokens=8, do_sample=False), plain
    )
    with pytest.raises(ConfigError, match="has adapters already"):
        AdapterSet(load_adapter(switched, folder))
