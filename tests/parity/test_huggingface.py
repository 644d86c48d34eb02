"""Values of Hugging Face's GlmForCausalLM (goldens of scripts/make_goldens.py): logits, greedy ids, training."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from mindformers.generation.runner import CachedRunner
from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
from mindformers.parallel.runtime import start_runtime
from tests.support.compare import assert_close
from tests.support.golden_model import (
    CASES,
    TRAIN_CASE,
    GoldenCase,
    huggingface_weights,
    our_weights,
    padded_batch,
)
from tests.support.networks import golden_config, golden_network, ints
from tests.support.parity import check_first_step, check_greedy, check_logits

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logits_of_a_left_padded_batch_equal_the_oracle(case: GoldenCase, mode: int) -> None:
    check_logits(case)


def test_split_weights_give_the_same_logits(pynative: None) -> None:
    case = CASES[2]
    fused, split = golden_network(case), golden_split_network(case)
    ids = padded_batch(case)[0]
    assert_close(split(ints(ids))[0].asnumpy(), fused(ints(ids))[0].asnumpy(), 1e-6)


def golden_split_network(case: GoldenCase):
    network = ChatGLM2ForConditionalGeneration(
        golden_config(case, qkv_concat=False, mlp_concat=False)
    )
    weights = our_weights(huggingface_weights(case), case.layers)
    q, kv = case.heads * case.head_dim, case.groups * case.head_dim
    rows = {"wq": (0, q), "wk": (q, q + kv), "wv": (q + kv, q + 2 * kv)}
    for name, parameter in network.weight_parameters().items():
        part = name.split(".")[-2]
        if part in rows:
            start, stop = rows[part]
            value = weights[name.replace(part, "query_key_value")][start:stop]
        elif part in ("dense_left", "dense_right"):
            half = slice(0, case.ffn) if part == "dense_left" else slice(case.ffn, None)
            value = weights[name.replace(part, "dense_h_to_4h")][half]
        else:
            value = weights[name]
        parameter.set_data(ms.Tensor(np.ascontiguousarray(value)))
    return network


def test_a_bfloat16_network_stays_near_the_float32_one(pynative: None) -> None:
    case = CASES[1]
    low = golden_network(case, param_init_type="bfloat16")
    assert {str(p.dtype) for n, p in low.weight_parameters().items() if "norm" not in n} == {
        "BFloat16"
    }
    ids = padded_batch(case)[0]
    exact = golden_network(case)(ints(ids))[0].asnumpy()
    # bfloat16 weights carry 8 bits; through two layers the logits (of size 10) move by at most 0.2.
    assert np.abs(low(ints(ids))[0].asnumpy() - exact).max() < 0.2


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_64_greedy_tokens_of_unequal_prompts_equal_the_oracle(
    case: GoldenCase, pynative: None
) -> None:
    check_greedy(case, use_past=True)


def test_64_greedy_tokens_equal_the_oracle_in_one_dynamic_graph() -> None:
    start_runtime(device_target="CPU", mode=0)
    check_greedy(CASES[2], use_past=True)
    start_runtime(device_target="CPU", mode=1)


def test_64_greedy_tokens_equal_the_oracle_without_a_cache(pynative: None) -> None:
    check_greedy(CASES[1], use_past=False)


def test_a_prompt_read_in_chunks_gives_the_same_tokens(pynative: None) -> None:
    network = golden_network(CASES[2])
    network._runners[True] = CachedRunner(network, chunk=5)
    check_greedy(CASES[2], use_past=True, network=network)


def test_loss_and_every_gradient_of_a_step_equal_the_oracle(mode: int) -> None:
    check_first_step(TRAIN_CASE, "training")
