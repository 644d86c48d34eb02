"""Layers and parts of layers that are computed again: the gradients are those of a network that keeps everything."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.ops.native import training
from mindformers.ops.native.library import choose_backend
from mindformers.parallel.runtime import start_runtime

SIZES: dict[str, Any] = {
    "num_layers": 3, "padded_vocab_size": 64, "hidden_size": 32, "ffn_hidden_size": 48, "kv_channels": 8,
    "num_attention_heads": 4, "multi_query_group_num": 2, "seq_length": 8, "compute_dtype": "float32",
    "param_init_type": "float32", "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
LORA = {"pet_type": "lora", "lora_rank": 4, "lora_dropout": 0.0, "target_modules": ".*"}
KINDS: dict[str, dict[str, Any]] = {
    "whole weights": {},
    "split weights": {"qkv_concat": False, "mlp_concat": False},
    "bfloat16": {"param_init_type": "bfloat16"},
    "adapters": {"pet_config": LORA},
    "adapters of attention": {"pet_config": LORA | {"target_modules": ".*query_key_value"}},
}
WAYS = {
    "all layers": [("recompute_layers", (3,))],
    "two layers": [("recompute_layers", (2,))],
    "parts of all": [("recompute_parts", (0, 3))],
    "a layer, parts of the next": [("recompute_layers", (1,)), ("recompute_parts", (1, 2))],
}


def build(
    changes: dict[str, Any], frozen: tuple[str, ...] = ()
) -> ChatGLM2ForConditionalGeneration:
    network = ChatGLM2ForConditionalGeneration(ChatGLM2Config(**(SIZES | changes)))
    rng = np.random.default_rng(2)
    for parameter in network.get_parameters():
        values = rng.normal(0, 0.2, parameter.shape).astype(np.float32)
        parameter.set_data(Tensor(values + ("norm" in parameter.name)).astype(parameter.dtype))
        if any(each in parameter.name for each in frozen):
            parameter.requires_grad = False
    network.set_train(True)
    return network


def gradients(network: ChatGLM2ForConditionalGeneration) -> tuple[float, dict[str, np.ndarray]]:
    parameters = ms.ParameterTuple(network.trainable_params())
    ids = np.random.default_rng(3).integers(2, 64, (2, 8)).astype(np.int32)
    found, slopes = ms.value_and_grad(network, None, parameters)(Tensor(ids), Tensor(ids))
    return float(found.asnumpy()[0]), {
        each.name: slope.astype(ms.float32).asnumpy()
        for each, slope in zip(parameters, slopes, strict=True)
    }


def assert_equal_gradients(changes, way, frozen=()):
    plain, again = build(changes, frozen), build(changes, frozen)
    for method, arguments in WAYS[way]:
        getattr(again, method)(*arguments)
    (loss, expected), (same, found) = gradients(plain), gradients(again)
    assert loss == same
    assert found.keys() == expected.keys()
    for name, slope in expected.items():
        assert slope.any() or "norm" not in name, name
        np.testing.assert_array_equal(found[name], slope, name)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_kernels_have_the_same_bits(native, pynative, kind, way):
    assert_equal_gradients(KINDS[kind], way)


@pytest.mark.parametrize("kind", ["whole weights", "split weights", "adapters"])
def test_gradients_of_the_portable_form_have_the_same_bits(pynative, kind):
    choose_backend("portable")
    assert_equal_gradients(KINDS[kind], "a layer, parts of the next")


@pytest.mark.parametrize("way", ["all layers", "parts of all"])
@pytest.mark.parametrize("frozen", [("embedding",), ("embedding", "layers.0", "layers.1.mlp")])
def test_gradients_above_frozen_weights_have_the_same_bits(backend, pynative, frozen, way):
    assert_equal_gradients({}, way, frozen)


def test_a_compiled_graph_gives_the_same_gradients(pynative):
    loss, expected = gradients(build({"num_layers": 1}))
    try:
        start_runtime(device_target="CPU", mode=0, seed=1)
        again = build({"num_layers": 1})
        again.recompute_parts(0, 1)
        same, found = gradients(again)
    finally:
        start_runtime(device_target="CPU", mode=1)
    assert abs(loss - same) < 1e-6
    for name, slope in expected.items():
        np.testing.assert_allclose(found[name], slope, atol=1e-6, err_msg=name)


def test_the_kernels_compute_the_product_of_gate_and_up_once_more_and_do_not_keep_it(
    native, pynative, monkeypatch
):
    calls: list[tuple[int, ...]] = []
    forward = training.swiglu
    monkeypatch.setattr(training, "swiglu", lambda *x: calls.append(x[0].shape) or forward(*x))
    plain, again = build({}), build({})
    again.recompute_parts(0, 2)
    gradients(plain)
    assert len(calls) == 3
    gradients(again)
    assert len(calls) == 3 + 3 + 2


def test_the_portable_form_computes_scores_and_products_again(pynative, monkeypatch):
    choose_backend("portable")
    calls: list[str] = []
    silu, softmax = ops.silu, ops.Softmax.__call__
    monkeypatch.setattr(ops, "silu", lambda x: calls.append("silu") or silu(x))
    monkeypatch.setattr(
        ops.Softmax, "__call__", lambda self, x: calls.append("softmax") or softmax(self, x)
    )
    network = build({})
    network.recompute_parts(0, 2)
    gradients(network)
    assert (calls.count("silu"), calls.count("softmax")) == (3 + 2, 3 + 2)
