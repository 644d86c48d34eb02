"""Embeddings through the engine: pooled hidden states, in any company and however a prompt is cut."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import Tensor

from mindformers.errors import GenerationError
from mindformers.generation import engine_job
from mindformers.generation.config import GenerationConfig
from mindformers.generation.handle import Handle
from mindformers.generation.request import EmbeddingRequest, Request
from mindformers.generation.serving_engine import open_engine
from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
from mindformers.pet import Ptuning2Config, get_pet_model
from tests.support import numpy_glm
from tests.support.compare import MODEL_FP32, assert_close
from tests.support.engine import (
    FakeStep,
    answers,
    hidden_state,
    is_empty,
    open_core,
    run_all,
    submit,
)
from tests.support.generation import history_logits
from tests.support.golden_model import CASES, GoldenCase
from tests.support.networks import golden_config, golden_network, ints

GREEDY = GenerationConfig(max_new_tokens=6, eos_token_id=[])


def ask(core, prompts, pooling="mean", **options) -> Handle:
    handle = Handle(lambda each: core.stop(each, "cancelled"))
    core.add(core.open_job(EmbeddingRequest(prompts, pooling, **options), handle))
    return handle


def embeddings(handle: Handle) -> np.ndarray:
    chunks = sorted(handle, key=lambda each: each.index)
    assert {(c.tokens, c.text, c.finish_reason) for c in chunks} == {((), "", "stop")}
    return np.stack([chunk.embedding for chunk in chunks])


def pooled(states: Sequence[np.ndarray], pooling: str) -> np.ndarray:
    """Return one row for the states (S, H) of each prompt, written out."""
    found = [each.mean(0) if pooling == "mean" else each[-1] for each in states]
    return np.stack([each / np.sqrt((each**2).sum()) for each in found])


def fake_states(prompt: Sequence[int]) -> np.ndarray:
    return np.stack([hidden_state(prompt[: n + 1]) for n in range(len(prompt))])


def some_prompts(rng: np.random.Generator, vocab: int, count: int, longest: int) -> list[list[int]]:
    """Return prompts of many lengths; every second one begins as the first does."""
    first = rng.integers(1, vocab, longest).tolist()
    found = [first]
    for number in range(1, count):
        own = rng.integers(1, vocab, int(rng.integers(1, longest))).tolist()
        found.append(first[: len(own) // 2] + own[len(own) // 2 :] if number % 2 else own)
    return found


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize(
    ("num_blocks", "settings", "step_of"),
    [
        (60, {}, {}),
        (14, {"step_tokens": 5}, {}),
        (14, {"step_tokens": 5, "prefix_cache": False}, {}),
        (20, {"step_tokens": 7, "max_running": 3}, {"prefix_length": 6}),
        (18, {"step_tokens": 16}, {"is_whole": True}),
    ],
)
def test_prompts_are_pooled_as_if_each_were_alone_beside_answers_that_go_on(
    pooling, num_blocks, settings, step_of
):
    long = GREEDY.merged(max_new_tokens=25)
    step = FakeStep(history_logits(12), 12, max_length=40, **step_of)
    core = open_core(step, num_blocks, **settings)
    prompts = some_prompts(np.random.default_rng(num_blocks), 12, 9, 40)
    handles, wanted = [], []
    for number in range(4):
        handles.append(submit(core, prompts[0][: 9 - number], long, priority=number % 2))
        wanted.append(ask(core, prompts[number : number + 6], pooling, priority=number % 3))
        for _ in range(number):
            core.run_once()
    run_all(core)
    for number, handle in enumerate(wanted):
        expected = pooled([fake_states(p) for p in prompts[number : number + 6]], pooling)
        np.testing.assert_allclose(embeddings(handle), expected, atol=1e-6)
        assert handle.usage.prompt_tokens == sum(map(len, prompts[number : number + 6]))
        assert handle.usage.completion_tokens == 0
    for number, handle in enumerate(handles):
        own = open_core(FakeStep(history_logits(12), 12, max_length=40))
        alone = submit(own, prompts[0][: 9 - number], long)
        run_all(own)
        assert answers(handle) == answers(alone)
    assert is_empty(core)
    assert (core.scheduler.num_preempted > 0) == (num_blocks not in (60, 20))


def test_the_last_token_is_found_through_the_prefix_cache_and_the_mean_reads_every_one():
    core = open_core(FakeStep(history_logits(12), 12, max_length=40))
    prompt = [1, 2, 3, 4] * 5
    found = []
    for pooling in ("last", "last", "mean", "mean"):
        handle = ask(core, [prompt], pooling)
        run_all(core)
        found.append((embeddings(handle)[0], handle.usage.cached_tokens))
    assert [cached for _, cached in found] == [0, 16, 0, 0]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[2][0], found[3][0])
    stats = core.stats()
    assert (stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens) == (80, 16, 0)
    assert stats.finished == {"stop": 4}


def test_what_embeddings_wrote_serves_the_prompts_of_answers_and_the_other_way_round():
    core = open_core(FakeStep(history_logits(12), 12, max_length=40))
    prompt = [1, 2, 3, 4] * 4 + [5]
    ask(core, [prompt], "mean")
    run_all(core)
    answer = submit(core, prompt, GREEDY)
    run_all(core)
    last = ask(core, [[*prompt, *answers(answer)[0]]], "last")
    run_all(core)
    assert (answer.usage.cached_tokens, last.usage.cached_tokens) == (16, 20)


def test_many_prompts_leave_half_of_the_places_to_others():
    step = FakeStep(history_logits(12), 12, max_length=40)
    core = open_core(step, 100, max_running=4, step_tokens=8)
    many = ask(core, [[n % 11, 3, 4] * 8 for n in range(20)])
    core.run_once()
    answer = submit(core, [5, 6], GREEDY)
    assert core.stats().waiting == 1
    for _ in range(9):
        core.run_once()
    assert answer.usage.completion_tokens == 6
    assert many in core.jobs
    assert max(len(pieces) for pieces in step.steps) == 3
    run_all(core)
    assert len(embeddings(many)) == 20


def test_a_request_that_is_cancelled_or_late_leaves_nothing_behind(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(engine_job.time, "monotonic", lambda: clock.now)
    core = open_core(FakeStep(history_logits(12), 12, max_length=40), step_tokens=6, max_running=2)
    prompts = [[1, 2], [3] * 30, [4] * 30]
    cancelled, late = ask(core, prompts), ask(core, prompts, timeout=5.0)
    for _ in range(2):
        core.run_once()
    cancelled.cancel()
    clock.now = 6.0
    assert not core.run_once()
    for handle, reason in ((cancelled, "cancelled"), (late, "timeout")):
        told = {chunk.index: chunk for chunk in handle}
        assert sorted(told) == [0, 1, 2]
        assert told[2].finish_reason == reason
        assert told[2].embedding is None
    assert core.stats().finished == {"cancelled": 1, "timeout": 1}
    assert is_empty(core)


def test_a_prompt_may_be_as_long_as_the_cache_holds_and_no_longer():
    core = open_core(FakeStep(history_logits(12), 12, max_length=40), 5)  # 20 tokens
    handle = ask(core, [[1] * 20])
    run_all(core)
    assert embeddings(handle).shape == (1, 5)
    with pytest.raises(GenerationError, match=r"prompt 1: has 21 tokens; allowed: 1 to 20"):
        ask(core, [[1], [1] * 21])


@pytest.mark.parametrize(
    ("prompts", "pooling", "message"),
    [
        ([[1], []], "mean", "prompt 1: is empty"),
        ([], "mean", "is empty"),
        ([[1, 12]], "mean", "prompt 0: id 12 at place 1; allowed: 0 to 11"),
        ([1, 2, 3], "mean", "prompts: found the ids of one prompt"),
        (["text"], "mean", "found a text"),
        ([[1]], "max", "pooling: found 'max'; allowed: mean, last"),
    ],
)
def test_what_cannot_be_pooled_is_refused(prompts, pooling, message):
    core = open_core(FakeStep(history_logits(12), 12))
    with pytest.raises(GenerationError, match=message):
        ask(core, prompts, pooling)
    with pytest.raises(GenerationError, match="timeout: found 0; allowed: above 0 seconds"):
        ask(core, [[1]], timeout=0)


def test_states_without_a_direction_end_their_request_alone(monkeypatch):
    def states(ids):
        return np.full(5, np.nan) if 9 in ids else hidden_state(ids)

    monkeypatch.setattr("tests.support.engine.hidden_state", states)
    core = open_core(FakeStep(history_logits(12), 12))
    wrong, right = ask(core, [[1], [9, 2], [3]]), ask(core, [[1, 2]])
    run_all(core)
    with pytest.raises(GenerationError, match="the hidden states of prompt 1 have no direction"):
        list(wrong)
    np.testing.assert_allclose(embeddings(right), pooled([fake_states([1, 2])], "mean"), atol=1e-6)
    assert is_empty(core)


@pytest.fixture
def network(backend: str, pynative: None):
    return golden_network(CASES[1], seq_length=80, num_blocks=64)


def forward_states(network, prompts: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Return the states of each prompt by the network's own pass without a cache."""
    return [network.transformer(ints([p])).asnumpy().astype(np.float64) for p in prompts]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_networks_embeddings_are_those_of_its_pass_without_a_cache(network, backend, pooling):
    # Each pass of MindSpore takes milliseconds.
    prompts = some_prompts(
        np.random.default_rng(3), 96, *((6, 60) if backend == "native" else (3, 24))
    )
    expected = pooled(forward_states(network, prompts), pooling)
    question = prompts[0][:20]
    answer = network.generate([question], GREEDY)[0][20:].tolist()
    in_one_piece, cut = {}, {"step_tokens": 9}
    for settings in (in_one_piece, cut)[backend == "portable" :]:
        core = open_core(network.build_step(), 40, **settings)
        handles = [submit(core, question, GREEDY), ask(core, prompts, pooling)]
        handles += [ask(core, [prompt], pooling) for prompt in prompts]
        handles.append(submit(core, question, GREEDY))
        run_all(core)
        found = embeddings(handles[1])
        assert_close(found, expected, MODEL_FP32)
        singles = np.concatenate([embeddings(each) for each in handles[2:-1]])
        assert_close(singles, expected, MODEL_FP32)
        assert [answers(handles[place]) for place in (0, -1)] == [{0: answer}] * 2
        assert is_empty(core)


def test_a_trained_prefix_changes_the_embeddings_as_it_does_the_pass(backend, pynative):
    network = golden_network(CASES[1], seq_length=80, num_blocks=64)
    prompts = [[3, 1, 4], [2, 7, 1, 8, 2, 8]]
    plain = pooled(forward_states(network, prompts), "mean")
    get_pet_model(network, Ptuning2Config(pre_seq_len=6, dropout_prob=0.0))
    expected = pooled(forward_states(network, prompts), "mean")
    assert np.abs(expected - plain).max() > 1e-3
    core = open_core(network.build_step(), 20)
    for _ in range(2):
        handle = ask(core, prompts)
        run_all(core)
        assert_close(embeddings(handle), expected, MODEL_FP32)


def test_an_engine_over_a_model_takes_both_kinds_of_requests(network):
    prompts = [[3, 1, 4, 1, 5], [9, 2, 6]]
    with open_engine(network) as engine:
        assert engine.hidden_size == 32
        answer = engine.submit(Request(prompts[0], GREEDY))
        found = embeddings(engine.submit(EmbeddingRequest(prompts)))
        assert len(answers(answer)[0]) == 6
    expected = pooled(forward_states(network, prompts), "mean")
    assert_close(found, expected, MODEL_FP32)


def test_embeddings_are_those_worked_out_by_hand(backend, pynative):
    sizes = numpy_glm.Sizes(layers=1)
    weights = numpy_glm.random_weights(sizes)
    case = GoldenCase("numpy", layers=1, heads=sizes.heads, vocab=sizes.vocab, eps=sizes.eps)
    network = ChatGLM2ForConditionalGeneration(golden_config(case, seq_length=40, num_blocks=20))
    for name, parameter in network.weight_parameters().items():
        original = name.replace("embedding_weight", "word_embeddings.weight")
        parameter.set_data(Tensor(weights[original]))
    prompts = [[3, 1, 4, 1, 5, 9], [2, 6]]
    core = open_core(network.build_step(), 20)
    handle = ask(core, prompts)
    run_all(core)
    states = [numpy_glm.hidden_states(weights, sizes, np.array(p)) for p in prompts]
    assert_close(embeddings(handle), pooled(states, "mean"), MODEL_FP32)
