"""Generation with adapters: what the native network computes, and that it follows their changes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from mindformers.generation.runner import CachedRunner, RecomputeRunner
from mindformers.models.glm2.glm2_in_files import GlmInFiles
from mindformers.ops.native.library import is_native
from mindformers.pet import merge_adapter
from mindformers.pet.lora import lora_layers
from tests.support.golden_model import TRAIN_CASE
from tests.support.lora import base_file, network_with_base, set_adapters
from tests.support.networks import golden_config

pytestmark = pytest.mark.usefixtures("pynative")
needs_kernels = pytest.mark.skipif(not is_native(), reason="the kernels are not used here")
PROMPT = [[3, 5, 7, 11]]


def adapted(tmp_path: Path, targets: object, **changes):
    pet = {"lora_rank": 4, "lora_alpha": 8, "target_modules": targets}
    network = network_with_base(tmp_path, pet_config=pet, **changes)
    set_adapters(network)
    network.set_train(False)
    return network


def first_logits(network) -> np.ndarray:
    runner = network.runner(True)
    logits = runner.prefill(PROMPT)
    runner.release()
    return logits


def by_cells(network) -> np.ndarray:
    """Return the same from the network's own cells, which know the adapters."""
    return RecomputeRunner(network).prefill(PROMPT)


@needs_kernels
@pytest.mark.parametrize(
    ("targets", "changes"),
    [
        (".*", {}),
        (["wq", "dense_left"], {"qkv_concat": False, "mlp_concat": False}),
        (["query_key_value"], {"param_init_type": "bfloat16"}),
        (
            ["wk", "dense_right"],
            {"qkv_concat": False, "mlp_concat": False, "param_init_type": "bfloat16"},
        ),
    ],
)
def test_native_generation_has_the_adapters(targets, changes: dict, tmp_path: Path) -> None:
    network = adapted(tmp_path, targets, **changes)
    assert not isinstance(network.runner(True), CachedRunner)
    np.testing.assert_allclose(first_logits(network), by_cells(network), atol=2e-5)
    plain = network_with_base(tmp_path, **changes)
    plain.set_train(False)
    assert np.abs(first_logits(network) - first_logits(plain)).max() > 1e-3


@needs_kernels
def test_it_sees_adapters_and_weights_that_changed(tmp_path: Path) -> None:
    network = adapted(tmp_path, ".*")
    seen = [first_logits(network)]
    layer = next(iter(lora_layers(network).values()))
    set_adapters(network, seed=8)  # in place, as an optimizer does
    seen.append(first_logits(network))
    layer.mindpet_delta_lora_a.set_data(layer.mindpet_delta_lora_a * 3)
    seen.append(first_logits(network))
    layer.weight.asnumpy()[...] *= 2  # in place, as loading does
    seen.append(first_logits(network))
    for one, next_one in itertools.pairwise(seen):
        assert np.abs(one - next_one).max() > 1e-4
    np.testing.assert_allclose(seen[-1], by_cells(network), atol=2e-5)


@needs_kernels
def test_merged_copies_are_made_once(tmp_path: Path) -> None:
    network = adapted(tmp_path, ".*")
    assert network.native_network() is network.native_network()
    before = network.native_network()
    merge_adapter(network)
    assert network.native_network() is not before
    np.testing.assert_allclose(first_logits(network), by_cells(network), atol=2e-5)


def test_answers_are_those_of_the_merged_network(backend: str, tmp_path: Path) -> None:
    network = adapted(tmp_path, ".*")
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": []}
    own = network.generate(PROMPT, **settings)
    merged = merge_adapter(network).generate(PROMPT, **settings)
    np.testing.assert_array_equal(own[0], merged[0])


def test_weights_in_files_are_not_used_in_place_with_adapters(tmp_path: Path) -> None:
    network = adapted(tmp_path, ".*")
    folder = network.save_pretrained(tmp_path / "adapter")
    assert GlmInFiles.open(network.config, base_file(tmp_path)) is None
    assert GlmInFiles.open(golden_config(TRAIN_CASE), folder) is None
