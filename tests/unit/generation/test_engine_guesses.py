"""Guesses in the engine: they change no answer, give back what was wrong, and stand aside where a step is full."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers.errors import GenerationError
from mindformers.generation.config import GenerationConfig
from mindformers.generation.scheduler import GUESSED_STEP
from tests.support.engine import (
    FakeStep,
    answers,
    chunks,
    is_empty,
    listened,
    open_core,
    run_all,
    submit,
)
from tests.support.generation import ByteTokenizer, fresh_warnings, pair_logits, script

VOCAB = 12
TOKENIZER = ByteTokenizer()
LOOP = np.eye(VOCAB, dtype=np.float32)


def loop(ids):
    """1 2 3 1 2 3 and so on."""
    return LOOP[ids[-1] % 3 + 1]


class NeverTwice:
    """Every token but the one before."""

    def __init__(self, last=0):
        self.last = last

    def allowed(self):
        return np.arange(VOCAB) != self.last

    def accept(self, token):
        assert token != self.last
        self.last = token

    def copy(self):
        return NeverTwice(self.last)


CHOICES = [
    {},
    {"eos_token_id": [3, 7]},
    {"eos_token_id": [3], "min_new_tokens": 9},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.2},
    {"stop_strings": ["\x03\x04", "\x05\x05", "\x01\x02"]},
    {"do_sample": True, "top_k": 4, "eos_token_id": [2]},
    {"do_sample": True, "top_k": 0, "temperature": 0.7, "top_p": 0.8},
    {"bad_words_ids": [[1, 2]], "stop_strings": ["\x06"]},
]
REQUESTS = st.lists(
    st.tuples(
        st.integers(1, 18),  # tokens of the prompt
        st.integers(1, 20),  # of the answer
        st.integers(0, 5),  # steps until the next request comes
        st.sampled_from(CHOICES),
        st.integers(1, 3),  # answers
        st.integers(0, 12),  # steps until it is cancelled; 8 and above: never
        st.sampled_from([None, 1, 4, 10]),  # guesses at a time
        st.booleans(),  # whether it is held to a form
    ),
    min_size=1,
    max_size=7,
)


def prompt_of(number, length):
    return np.resize([number % 2, 1, 2 + number % 3, 1, 2], length).tolist()


def plain(step_of, prompt, asked, **options):
    """Return the answers of a request that has an engine for itself, without guesses."""
    core = open_core(step_of(), 64, TOKENIZER)
    handle = submit(core, prompt, asked, **options)
    run_all(core)
    return chunks(handle)


def check_sizes(step, step_tokens):
    for pieces in step.steps:
        if any(len(piece.picked) > 1 for piece in pieces):
            assert sum(len(piece.ids) for piece in pieces) <= min(GUESSED_STEP, step_tokens)


@settings(max_examples=30, deadline=None)
@given(
    REQUESTS,
    st.integers(0, 3),
    st.integers(12, 40),
    st.sampled_from([2, 5, 64]),
    st.booleans(),
    st.sampled_from([0, 0, 3]),
    st.sampled_from([3, 64]),
)
def test_guesses_change_no_answer(
    requests, seed, num_blocks, step_tokens, prefix_cache, prefix_length, max_running
):
    def step_of():
        return FakeStep(pair_logits(VOCAB, seed), VOCAB, max_length=40, prefix_length=prefix_length)

    step = step_of()
    core = open_core(step, num_blocks, TOKENIZER, step_tokens=step_tokens,
                     prefix_cache=prefix_cache, max_running=max_running)  # fmt: skip
    going = []
    for number, (length, limit, pause, choice, count, patience, guesses, held) in enumerate(
        requests
    ):
        given = {"max_new_tokens": max(limit, choice.get("min_new_tokens", 0)), **choice}
        options = {"seed": 1000 + number, "num_answers": count, "logprobs": 1}
        options["constraint"] = NeverTwice if held else None
        prompt = prompt_of(number, length)
        wanted = plain(step_of, prompt, GenerationConfig(**given), **options)
        asked = GenerationConfig(prompt_lookup_num_tokens=guesses, **given)
        going.append([submit(core, prompt, asked, **options), wanted, patience, prompt])
        for _ in range(pause):
            core.run_once()
        for each in going:
            if each[2] == 0:
                core.stop(each[0], "cancelled")
            each[2] -= each[2] < 8
    run_all(core)
    assert is_empty(core)
    check_sizes(step, step_tokens)
    again = []
    for handle, wanted, _, prompt in going:
        found = chunks(handle)
        for index, chunk in found.items():
            if chunk.finish_reason != "cancelled":
                assert chunk == wanted[index]
            size = len(chunk.tokens)
            assert chunk.tokens == wanted[index].tokens[:size]
            assert chunk.logprobs == wanted[index].logprobs[:size]
        assert handle.usage.completion_tokens == sum(len(each.tokens) for each in found.values())
        assert 0 <= handle.usage.accepted_tokens <= handle.usage.drafted_tokens
        again.append([*prompt, *found[0].tokens][:39])
    # What the prefix cache kept of them is what was said: who goes on from there reads nothing else.
    asked = GenerationConfig(max_new_tokens=1)
    for prompt in again:
        wanted = plain(step_of, prompt, asked)[0].tokens
        handle = submit(core, prompt, asked)
        run_all(core)
        assert chunks(handle)[0].tokens == wanted
    assert (core.stats().cached_tokens == 0) or prefix_cache


def test_a_right_guess_saves_a_step_and_is_counted():
    step = FakeStep(loop, VOCAB)
    core = open_core(step)
    asked = GenerationConfig(max_new_tokens=12, prompt_lookup_num_tokens=4)
    handle = submit(core, [1, 2, 3, 1, 2], asked)
    heard = listened(handle)
    run_all(core)
    assert [token for chunk in heard for token in chunk.tokens] == [3, 1, 2] * 4
    assert [[len(piece.ids) for piece in pieces] for pieces in step.steps] == [[5], [5], [5], [1]]
    usage, stats = handle.usage, core.stats()
    assert (usage.drafted_tokens, usage.accepted_tokens, usage.completion_tokens) == (8, 8, 12)
    assert (stats.drafted_tokens, stats.accepted_tokens, stats.generated_tokens) == (8, 8, 12)
    # Sixteen positions were read, the last token was not: four blocks, those of guesses among them.
    assert stats.cached_blocks == 4


def test_blocks_of_wrong_guesses_are_free_in_the_next_step():
    text = [1, 2, 3, 1, 2, 4]  # what follows 1 2 is guessed as 3, and more
    step = FakeStep(script(*text[1:], *[6] * 5, vocab_size=VOCAB), VOCAB)
    core = open_core(step, 8)
    handle = submit(
        core,
        [1],
        GenerationConfig(max_new_tokens=7, prompt_lookup_num_tokens=6, eos_token_id=[]),
    )
    for _ in range(4):
        core.run_once()
    assert core.stats().blocks - core.stats().free_blocks == 1
    core.run_once()  # 1 2 3 1 2 and the guess 3: wrong
    assert len(step.steps[-1][0].ids) == 3
    assert core.scheduler.blocks.length(core.scheduler.running[0].place) == 5
    run_all(core)
    assert answers(handle) == {0: [2, 3, 1, 2, 4, 6, 6]}
    assert (handle.usage.drafted_tokens, handle.usage.accepted_tokens) == (2, 0)


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [8]), (2, [4, 4]), (3, [3, 3, 2]), (7, [2] + [1] * 6), (8, [1] * 8)]
)
def test_guesses_fill_a_step_up_to_what_the_kernels_take_at_once(count, sizes):
    step = FakeStep(loop, VOCAB)
    core = open_core(step)
    asked = GenerationConfig(max_new_tokens=30, prompt_lookup_num_tokens=9)
    for _ in range(count):
        submit(core, [1, 2, 3, 1, 2], asked)
    core.run_once()
    core.run_once()
    assert [len(piece.ids) for piece in step.steps[1]] == sizes


def test_a_step_that_reads_a_long_prompt_has_no_guesses():
    step = FakeStep(loop, VOCAB)
    core = open_core(step)
    asked = GenerationConfig(max_new_tokens=30, prompt_lookup_num_tokens=4)
    submit(core, [1, 2, 3, 1, 2], asked)
    core.run_once()
    submit(core, [5] * 20, asked)
    core.run_once()
    assert [len(piece.ids) for piece in step.steps[-1]] == [1, 20]


def test_nobody_gives_way_for_a_guess():
    def run(**guessing):
        core = open_core(FakeStep(loop, VOCAB), 8)
        asked = GenerationConfig(max_new_tokens=9, **guessing)
        handles = [submit(core, [1, 2, 3, 1, 2], asked) for _ in range(2)]
        run_all(core)
        assert is_empty(core)
        return [answers(each) for each in handles], core.stats()

    wanted, before = run()
    found, after = run(prompt_lookup_num_tokens=6)
    assert found == wanted
    assert after.preemptions == before.preemptions == 0
    assert after.accepted_tokens > 0


def test_a_rule_that_fails_behind_a_right_guess_ends_its_request_alone():
    class Fails(NeverTwice):
        def accept(self, token):
            super().accept(token)
            self.count = getattr(self, "count", 0) + 1
            if self.count == 4:
                raise ValueError("no more")

    core = open_core(FakeStep(loop, VOCAB))
    asked = GenerationConfig(max_new_tokens=12, prompt_lookup_num_tokens=3)
    failing = submit(core, [1, 2, 3, 1, 2], asked, constraint=Fails)
    other = submit(core, [1, 2, 3, 1, 2], asked)
    heard = listened(failing)
    run_all(core)
    assert [token for chunk in heard for token in chunk.tokens] == [3, 1, 2]
    assert answers(other) == {0: [3, 1, 2] * 4}
    assert core.stats().finished == {"error": 1, "length": 1}
    assert is_empty(core)


def test_what_cannot_guess_says_so(monkeypatch, caplog):
    fresh_warnings(monkeypatch)
    with pytest.raises(GenerationError, match="prompt_lookup_num_tokens: a search with num_beams"):
        submit(
            open_core(FakeStep(loop, VOCAB)),
            [1],
            GenerationConfig(num_beams=2, prompt_lookup_num_tokens=3),
        )
    step = FakeStep(loop, VOCAB, is_whole=True)
    core = open_core(step)
    asked = GenerationConfig(max_new_tokens=6, prompt_lookup_num_tokens=3)
    handle = submit(core, [1, 2, 3, 1, 2], asked)
    run_all(core)
    assert answers(handle) == {0: [3, 1, 2] * 2}
    assert handle.usage.drafted_tokens == 0
    assert caplog.messages == [
        "guessed tokens (prompt_lookup_num_tokens, assistant_model) have no effect on an NPU"
    ]
