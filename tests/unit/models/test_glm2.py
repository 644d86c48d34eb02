"""The network's names, outputs and size."""

from __future__ import annotations

import resource

import mindspore as ms
import numpy as np
import pytest

from mindformers.errors import ConfigError
from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_weights import count_parameters
from tests.support.compare import assert_close
from tests.support.golden_model import CASES
from tests.support.networks import golden_config, golden_network, ints

CASE = CASES[1]


def build(**changes) -> ChatGLM2ForConditionalGeneration:
    return ChatGLM2ForConditionalGeneration(golden_config(CASE, **changes))


def test_weights_have_upstreams_names(pynative: None) -> None:
    layer = "transformer.encoder.layers.1."
    fused, split = (
        set(build().weight_parameters()),
        set(build(qkv_concat=False, mlp_concat=False).weight_parameters()),
    )
    assert fused - split == {
        f"transformer.encoder.layers.{i}.{n}"
        for i in (0, 1)
        for n in (
            "self_attention.query_key_value.weight",
            "self_attention.query_key_value.bias",
            "mlp.dense_h_to_4h.weight",
        )
    }
    assert {n for n in split if n.startswith(layer)} == {
        layer + n
        for n in (
            "input_layernorm.weight",
            "self_attention.wq.weight",
            "self_attention.wq.bias",
            "self_attention.wk.weight",
            "self_attention.wk.bias",
            "self_attention.wv.weight",
            "self_attention.wv.bias",
            "self_attention.dense.weight",
            "post_attention_layernorm.weight",
            "mlp.dense_left.weight",
            "mlp.dense_right.weight",
            "mlp.dense_4h_to_h.weight",
        )
    }
    assert {n for n in fused if ".layers." not in n} == {
        "transformer.embedding.embedding_weight",
        "transformer.encoder.final_layernorm.weight",
        "transformer.output_layer.weight",
    }


def test_sandwich_norms_have_their_own_weights(pynative: None) -> None:
    names = set(build(post_self_attn_layernorm=True, post_mlp_layernorm=True).weight_parameters())
    assert {n.split(".")[-2] for n in names if "layers.0" in n and "norm" in n} == {
        "input_layernorm",
        "post_attention_layernorm",
        "post_self_attn_layernorm",
        "post_mlp_layernorm",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qkv_concat": False, "mlp_concat": False},
        {"add_qkv_bias": False},
        {"multi_query_attention": False},
        {"post_mlp_layernorm": True},
    ],
)
def test_the_closed_form_counts_the_built_network(changes: dict, pynative: None) -> None:
    network = build(**changes)
    assert count_parameters(network.config) == sum(
        p.size for p in network.weight_parameters().values()
    )


def test_the_closed_form_gives_the_published_sizes() -> None:
    glm4 = {"num_layers": 40, "padded_vocab_size": 151552}
    assert count_parameters(ChatGLM2Config(**glm4)) == 9_399_951_360
    assert count_parameters(ChatGLM2Config(**glm4, multi_query_group_num=4)) == 9_483_857_920
    norms = {"post_self_attn_layernorm": True, "post_mlp_layernorm": True}
    assert count_parameters(ChatGLM2Config(**glm4, **norms)) == 9_400_279_040  # GLM-4-9B-0414
    sizes = {"num_layers": 61, "hidden_size": 6144, "ffn_hidden_size": 23040}
    large = ChatGLM2Config(**{**glm4, **sizes}, **norms, num_attention_heads=48, add_qkv_bias=False)
    assert count_parameters(large) == 32_566_081_536  # GLM-4-32B-0414
    large.update(multi_query_group_num=8)
    assert count_parameters(large) == 33_141_749_760  # GLM-Z1-Rumination-32B-0414


def test_outputs_have_upstreams_shapes(mode: int) -> None:
    network, ids = golden_network(CASE), ints(np.arange(1, 13).reshape(2, 6))
    network.set_train(True)
    assert network(ids, ids).shape == (1,)
    network.set_train(False)
    assert [t.shape for t in network(ids)] == [(2, 6, CASE.vocab)]
    logits, labels, mask = network(ids, ids)
    assert (logits.shape, labels.shape, mask.shape) == ((2, 7, CASE.vocab), (2, 7), (2, 7))
    assert not logits.asnumpy()[:, -1].any()
    assert not labels.asnumpy()[:, 0].any()
    assert mask.asnumpy().tolist() == [[0, 1, 1, 1, 1, 1, 1]] * 2


def test_an_input_mask_takes_the_place_of_ignored_labels(pynative: None) -> None:
    network, ids = golden_network(CASE), ints(np.arange(1, 7)[None])
    network.set_train(True)
    labels = np.array([[3, 4, -100, -100, 7, 8]])
    mask = ints([[1, 1, 0, 0, 1, 1]])
    assert (
        network(ids, ints(labels)).asnumpy()
        == network(ids, ints(np.where(labels < 0, 5, labels)), input_mask=mask).asnumpy()
    )


def test_a_three_dimensional_mask_hides_what_it_marks(pynative: None) -> None:
    network, ids = golden_network(CASE), ints(np.arange(1, 7)[None])
    hidden = np.triu(np.ones((1, 6, 6)), 1)
    causal = network(ids)[0].asnumpy()
    # A causal pass and one with a mask of its own may be two kernels, so the last digits differ.
    assert_close(network(ids, attention_mask=ints(hidden))[0].asnumpy(), causal)
    hidden[:, 3:, 0] = 1
    other = network(ids, attention_mask=ints(hidden))[0].asnumpy()
    assert_close(other[:, :3], causal[:, :3])
    assert not np.allclose(other[:, 3:], causal[:, 3:])


def test_building_for_128k_positions_takes_memory_linear_in_length(pynative: None) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    network = build(seq_length=131072)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 512 * 1024  # an S x S table of single bytes alone would be 16 GiB
    names = [p.name for p in network.get_parameters()]
    assert not any("cache" in name for name in names)


def test_parameters_are_stored_in_the_type_asked_for(pynative: None) -> None:
    network = build(param_init_type="bfloat16")
    kinds = {str(p.dtype) for n, p in network.weight_parameters().items() if "layernorm" not in n}
    assert kinds == {str(ms.bfloat16)}


def test_a_wrong_setting_is_named_with_its_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'num_layer'; did you mean 'num_layers'"):
        ChatGLM2Config(num_layer=2)
    with pytest.raises(
        ConfigError, match="multi_query_group_num 3 does not divide num_attention_heads 8"
    ):
        ChatGLM2Config(num_attention_heads=8, multi_query_group_num=3)
    with pytest.raises(ConfigError, match="ring attention is not implemented"):
        ChatGLM2Config(use_ring_attention=True)


def test_recomputed_layers_give_the_same_gradients(mode: int) -> None:
    from tests.support.parity import value_and_gradients

    ids = np.arange(1, 13).reshape(2, 6)
    plain, recomputed = golden_network(CASE), golden_network(CASE)
    for network in (plain, recomputed):
        network.set_train(True)
    recomputed.recompute_layers(1)
    loss, expected = value_and_gradients(plain, ids, ids)
    again, found = value_and_gradients(recomputed, ids, ids)
    assert np.array_equal(loss.asnumpy(), again.asnumpy())
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-5, atol=1e-7, err_msg=name)
