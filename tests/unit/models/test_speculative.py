"""Guessed tokens with real networks: the greedy answers of the plain loop, by either form of the operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mindspore import Tensor

from mindformers.errors import GenerationError
from mindformers.generation.native_runner import NativeRunner
from mindformers.generation.runner import CachedRunner, RecomputeRunner
from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
from mindformers.ops.native.library import choose_backend, is_native
from tests.support import induction
from tests.support.golden_model import CASES, GoldenCase
from tests.support.networks import golden_network

pytestmark = pytest.mark.usefixtures("pynative")
PROMPTS = [[5, 9, 5, 9, 5], [7], [1, 2, 3, 4, 1, 2, 3, 4, 1], [8, 8]]
SETTINGS = [
    {},
    {"repetition_penalty": 1.2},
    {"eos_token_id": [3, 40, 77]},
    {"do_sample": True, "top_k": 5, "seed": 11},
]


def answers(network: Any, prompts: Any = PROMPTS, **settings: Any) -> Any:
    settings = {"max_new_tokens": 30, "return_dict_in_generate": True, **settings}
    return network.generate(prompts, **settings)


def lists(output: Any) -> list[list[int]]:
    return [ids.tolist() for ids in output.sequences]


def check_guesses(counts: tuple[int, ...], **settings: Any) -> None:
    network = golden_network(CASES[1])
    wanted = lists(answers(network, **settings))
    for count in counts:
        found = answers(network, prompt_lookup_num_tokens=count, **settings)
        assert lists(found) == wanted
        assert sum(found.num_drafted) > 0
    # Another network of the vocabulary, and one that thinks alike but ends early.
    for case in (CASES[0], CASES[1])[-len(counts) :]:
        assistant = golden_network(case, seq_length=20)
        found = answers(network, assistant_model=assistant, num_assistant_tokens=4, **settings)
        assert lists(found) == wanted
    assert 0 < sum(found.num_accepted) >= 0.9 * sum(found.num_drafted)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_lookup_and_assistant_give_the_plain_answers(native: None, settings: dict) -> None:
    check_guesses((1, 6), max_new_tokens=30, **settings)


def test_lookup_and_assistant_give_the_plain_answers_of_the_portable_form() -> None:
    choose_backend("portable")
    check_guesses((6,), max_new_tokens=12, repetition_penalty=1.2)


def test_without_a_cache_too(backend: str) -> None:
    network = golden_network(CASES[1])
    wanted = lists(answers(network, max_new_tokens=10))
    found = answers(network, max_new_tokens=10, use_past=False, prompt_lookup_num_tokens=5)
    assert lists(found) == wanted
    assert sum(found.num_accepted) > 0


def copying_network() -> ChatGLM2ForConditionalGeneration:
    settings = induction.config(num_blocks=256)
    network = ChatGLM2ForConditionalGeneration(settings)
    weights = induction.weights(settings)
    parameters = network.weight_parameters()
    assert set(parameters) == set(weights)
    for name, parameter in parameters.items():
        parameter.set_data(Tensor(weights[name]))
    return network


def test_copying_takes_a_fraction_of_the_passes(backend: str) -> None:
    network = copying_network()
    text = np.random.default_rng(1).permutation(induction.VOCAB)[:120].tolist()
    prompts = [[*text, text[3]], [*text[50:], text[90]]]
    plain = answers(network, prompts, eos_token_id=[text[105]])
    assert plain.sequences[0][121:].tolist() == text[4:34]
    assert plain.sequences[1][71:].tolist() == text[91:106]
    found = answers(network, prompts, eos_token_id=[text[105]], prompt_lookup_num_tokens=9)
    assert lists(found) == lists(plain)
    assert found.finish_reasons == ["length", "stop"]
    assert (plain.num_steps, found.num_steps) == (29, 3)
    assert found.num_accepted[0] == found.num_drafted[0]
    assert found.num_accepted[1] < found.num_drafted[1]  # what was guessed behind the end


def runners(network: Any) -> list[Any]:
    found = [CachedRunner(network), RecomputeRunner(network)]
    if is_native():
        found.append(network.build_runner(True))
        assert isinstance(found[-1], NativeRunner)
    return found


def cache_of(runner: Any) -> list[np.ndarray]:
    if isinstance(runner, NativeRunner):
        arrays = [array for layer in runner.network._cache for array in layer]
        return [array.copy() for array in arrays if array.size > 1]  # scales are of int8 only
    layers = runner.network.transformer.encoder.layers
    caches = [each.self_attention.cached_attention for each in layers]
    return [p.asnumpy().copy() for each in caches for p in (each.key_cache, each.value_cache)]


@pytest.mark.parametrize("case", [CASES[1], CASES[4]], ids=lambda case: case.name)
def test_after_a_rollback_all_is_as_if_nothing_had_been_read(
    backend: str, case: GoldenCase
) -> None:
    for runner in runners(golden_network(case)):
        rows = np.arange(3, dtype=np.int32)
        runner.prefill([[1, 2, 3], [4], [5, 6, 7, 8, 9]])
        more, other = [[10, 11, 12], [13], [14, 15]], [[20], [21, 22, 23, 24, 25, 26], [27]]
        wanted = runner.extend(more, rows)
        cached = hasattr(runner, "blocks")
        state = (cache_of(runner), runner.blocks.num_free) if cached else ()
        runner.rollback([3, 1, 5], [0, 1, 2])
        runner.extend(other, rows)
        runner.rollback([3, 1, 5], [0, 1, 2])
        np.testing.assert_array_equal(runner.extend(more, rows), wanted)
        if cached:
            assert runner.blocks.num_free == state[1]
            slots = runner.blocks.slot_mapping([0, 1, 2], np.arange(7))
            held = np.unique(slots[slots > 0])
            for now, before in zip(cache_of(runner), state[0], strict=True):
                width = now.size // (runner.blocks.num_blocks * runner.block_size)
                now, before = now.reshape(-1, width), before.reshape(-1, width)
                np.testing.assert_array_equal(now[held], before[held])
        # Row by row and token by token the same comes out, but for rounding.
        runner.rollback([3, 1, 5], [0, 1, 2])
        one = [runner.extend([[token]], rows[:1])[0] for token in more[0]]
        np.testing.assert_allclose(one, wanted[:3], rtol=1e-4, atol=1e-4)
        runner.release()


def test_what_is_no_assistant_is_refused(backend: str) -> None:
    network = golden_network(CASES[1])
    small = golden_network(GoldenCase("small", vocab=64))
    for assistant, message in (
        (network, "assistant_model: found the model itself; allowed: a smaller model"),
        (
            "a/path",
            "assistant_model: found 'a/path'; allowed: a smaller model .* as AutoModel gives",
        ),
        (small, "assistant_model: a model of 64 ids; allowed: one of the same vocabulary: 96 ids"),
    ):
        with pytest.raises(GenerationError, match=message):
            answers(network, assistant_model=assistant)
