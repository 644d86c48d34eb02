"""Requests in any mix are answered as if each were alone; the cache holds ids, so that a mix-up shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers.errors import GenerationError
from mindformers.generation.config import GenerationConfig
from mindformers.generation.engine import generate
from mindformers.generation.engine_job import PATIENCE
from tests.support.engine import (
    FakeStep,
    alone,
    answers,
    chunks,
    is_empty,
    listened,
    open_core,
    run_all,
    submit,
)
from tests.support.generation import END, ByteTokenizer, FakeRunner, chain, history_logits, script


def config(**settings):
    return GenerationConfig(**{"eos_token_id": END, "max_new_tokens": 8, **settings})


def test_answers_join_a_running_batch_and_leave_it():
    step = FakeStep(chain((1, 2), (2, 3), (4, 5), (5, 6), (6, 7)))
    core = open_core(step)
    first = submit(core, [0, 1], config())
    core.run_once()
    second = submit(core, [4], config())
    run_all(core)
    assert answers(first) == {0: [2, 3, END]}
    assert answers(second) == {0: [5, 6, 7, END]}
    sizes = [[len(piece.ids) for piece in pieces] for pieces in step.steps]
    assert sizes == [[2], [1, 1], [1, 1], [1], [1]]
    assert is_empty(core)


REQUESTS = st.lists(
    st.tuples(
        st.integers(1, 20),  # tokens of the prompt
        st.integers(1, 12),  # of the answer
        st.integers(0, 4),  # steps until the next request comes
        st.integers(-1, 1),  # priority
        st.integers(1, 3),  # answers
        st.integers(0, 9),  # steps until it is cancelled; 8 and 9: never
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(
    REQUESTS,
    st.integers(24, 60),
    st.sampled_from([1, 3, 7, 64]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 0, 3, 6]),
    st.sampled_from([3, 64]),
)
def test_every_request_is_answered_as_if_it_were_alone(
    requests, num_blocks, step_tokens, prefix_cache, is_whole, prefix_length, max_running
):
    if is_whole:
        prefix_length = 0
    step = FakeStep(
        history_logits(12), 12, max_length=40, prefix_length=prefix_length, is_whole=is_whole
    )
    core = open_core(
        step,
        num_blocks,
        step_tokens=step_tokens,
        prefix_cache=prefix_cache,
        max_running=max_running,
    )
    open_handles = []
    for number, (length, limit, pause, priority, count, patience) in enumerate(requests):
        # Few beginnings, so that many are shared.
        prompt = [number % 2] * (length - length // 4) + [number % 5] * (length // 4)
        choice = {"do_sample": True, "top_k": 6, "temperature": 1.5} if number % 2 else {}
        asked = config(max_new_tokens=limit, **choice)
        seed = 1000 + number
        handle = submit(core, prompt, asked, seed=seed, num_answers=count, priority=priority)
        open_handles.append((handle, alone(step, prompt, asked, seed, count), patience))
        for _ in range(pause):
            core.run_once()
        for place, (each, _, left) in enumerate(open_handles):
            if left == 0:
                core.stop(each, "cancelled")
            open_handles[place] = (each, open_handles[place][1], left - (left < 8))
    run_all(core)
    for handle, expected, _ in open_handles:
        found = chunks(handle)
        assert sorted(found) == list(range(len(expected)))
        for index, chunk in found.items():
            assert chunk.finish_reason in ("stop", "length", "cancelled")
            whole = expected[index]
            if chunk.finish_reason == "cancelled":
                whole = whole[: len(chunk.tokens)]
            assert list(chunk.tokens) == whole
        assert handle.usage.completion_tokens == sum(len(each.tokens) for each in found.values())
    assert is_empty(core)
    if not prefix_cache or is_whole:
        assert core.stats().cached_blocks == core.stats().cached_tokens == 0


def test_text_comes_in_whole_characters_without_control_tokens_and_ends_before_a_stop_string():
    tokenizer = ByteTokenizer(["ab", "cE", "N", "Dx"], special=["<|user|>"])  # 256..259, 260
    core = open_core(FakeStep(script(256, 257, 258, 259, 256), 300), tokenizer=tokenizer)
    handle = submit(core, [1], config(stop_strings=["END"]))
    run_all(core)
    found = chunks(handle)[0]
    assert (found.text, found.finish_reason) == ("abc", "stop_string")
    assert (found.tokens, handle.usage.completion_tokens) == ((256, 257, 258, 259), 4)

    euro = list("€".encode())
    core = open_core(FakeStep(script(104, *euro, 260), 300), tokenizer=tokenizer)
    handle = submit(core, [1], config(eos_token_id=260))
    heard = listened(handle)
    run_all(core)
    assert [chunk.text for chunk in heard] == ["h", "", "", "€", ""]


@pytest.mark.parametrize(
    ("stop", "text", "reason"),
    [
        ("<|go|>", "abEND", "length"),  # a control token is not text
        ("go", "abEND", "length"),
        ("bE", "a", "stop_string"),  # nor does one stand between the characters of a text
        ("ND", "abE", "stop_string"),
    ],
)
def test_stop_strings_are_found_in_the_text_without_control_tokens_here_and_in_generate(
    stop, text, reason
):
    tokenizer = ByteTokenizer(["ab", "EN", "D"], special=["<|go|>"])  # 256..258, 259
    logits, settings = (
        script(256, 259, 257, 259, 258),
        {"stop_strings": [stop], "max_new_tokens": 5},
    )
    core = open_core(FakeStep(logits, 300), tokenizer=tokenizer)
    handle = submit(core, [1], config(**settings))
    run_all(core)
    found = chunks(handle)[0]
    output = generate(FakeRunner(logits, 300), [[1]], config(**settings), tokenizer=tokenizer)
    assert (found.text, found.finish_reason) == (text, reason)
    assert (output.texts, output.finish_reasons) == ([text], [reason])
    assert output.sequences[0][1:].tolist() == list(found.tokens)


def test_a_turn_that_waits_for_a_tool_ends_as_tool_calls():
    tokenizer = ByteTokenizer(special=["<|user|>", "<|observation|>"])
    core = open_core(FakeStep(script(104, 257), 300), tokenizer=tokenizer)
    handle = submit(core, [1], config(eos_token_id=[256, 257]))
    run_all(core)
    found = chunks(handle)[0]
    assert (found.tokens, found.text, found.finish_reason) == ((104, 257), "h", "tool_calls")
    assert core.stats().finished == {"tool_calls": 1}


def test_log_probabilities_are_those_of_the_models_own_logits():
    row = np.log(np.array([0.1, 0.4, 0.3, 0.2], np.float32))
    core = open_core(FakeStep(lambda ids: row, 4))
    handle = submit(core, [0], GenerationConfig(max_new_tokens=1, logit_bias={3: 9.0}), logprobs=2)
    run_all(core)
    (told,) = chunks(handle)[0].logprobs
    assert (told.token, [token for token, _ in told.top]) == (3, [1, 2])
    assert np.exp([told.logprob, *(value for _, value in told.top)]) == pytest.approx(
        [0.2, 0.4, 0.3]
    )


class OnlyOnce:
    """Every token but those that were chosen."""

    def __init__(self, used=()):
        self.used = set(used)

    def allowed(self):
        mask = np.ones(10, bool)
        mask[list(self.used)] = False
        return mask

    def accept(self, token):
        self.used.add(token)

    def copy(self):
        return OnlyOnce(self.used)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_constraint_has_a_state_of_its_own_in_every_answer(num_beams):
    step = FakeStep(history_logits(10))
    core = open_core(step)
    asked = GenerationConfig(max_new_tokens=10, num_beams=num_beams)
    count = num_beams if num_beams > 1 else 3
    handle = submit(core, [1, 1], asked, num_answers=count, constraint=OnlyOnce)
    run_all(core)
    found = answers(handle)
    assert len(found) == count
    assert all(sorted(ids) == list(range(10)) for ids in found.values())
    runner = FakeRunner(step.logits)
    if num_beams == 1:
        output = generate(runner, [[1, 1]], asked, constraint=OnlyOnce)
        assert output.sequences[0].tolist() == [1, 1, *found[0]]


def test_several_answers_share_their_prompt_and_part_where_they_write():
    step = FakeStep(history_logits(12), 12)
    core = open_core(step)
    asked = config(do_sample=True, top_k=0, temperature=3.0, max_new_tokens=6, eos_token_id=[])
    handle = submit(core, list(range(10)), asked, seed=5, num_answers=3)
    core.run_once()
    assert [len(piece.ids) for piece in step.steps[0]] == [10]
    core.run_once()
    assert (
        core.stats().blocks - core.stats().free_blocks == 2 + 3
    )  # two full ones; the third is each's own
    assert step.num_copied == 2  # who writes last keeps the first
    run_all(core)
    assert list(answers(handle).values()) == alone(step, range(10), asked, 5, 3)
    assert handle.usage.prompt_tokens == 10


def test_a_prompt_that_begins_like_an_earlier_one_is_read_from_where_it_differs():
    step = FakeStep(history_logits(12), 12)
    core = open_core(step)
    first = submit(core, list(range(10)), config(max_new_tokens=4))
    run_all(core)
    answered = answers(first)[0]
    again = submit(core, [*range(10), *answered, 3], config(max_new_tokens=1))
    other = submit(core, [*range(7), 11, 11], config(max_new_tokens=1))
    run_all(core)
    # 13 positions were written (the last token is never read): three blocks. The other differs in the second.
    assert (again.usage.cached_tokens, other.usage.cached_tokens) == (12, 4)
    assert [len(piece.ids) for piece in step.steps[-1]] == [3, 5]
    assert core.stats().cached_tokens == 16


def test_larger_priorities_go_first_and_equals_in_the_order_they_came():
    core = open_core(FakeStep(chain()), max_running=1)
    order = []
    for name, priority in (("a", 0), ("b", 0), ("c", 2), ("d", 1)):
        submit(core, [1], config(), priority=priority).listen(
            lambda item, name=name: order.append(name) if item is None else None
        )
    run_all(core)
    assert order == ["c", "d", "a", "b"]


def test_whoever_was_overtaken_often_enough_goes_first():
    core = open_core(FakeStep(chain()), max_running=1)
    patient = listened(submit(core, [1], config(), priority=-1))
    steps = 0
    while not patient:
        for _ in range(2):
            submit(core, [1], config())
        core.run_once()
        steps += 1
    assert steps == PATIENCE + 1


def test_a_short_prompt_does_not_wait_for_the_end_of_a_long_one():
    step = FakeStep(chain(), max_length=200)
    core = open_core(step, 64, step_tokens=10)
    long = submit(core, [1] * 100, config())
    core.run_once()
    short = submit(core, [2] * 12, config())
    steps, heard = 1, listened(short)
    while not heard:
        core.run_once()
        steps += 1
    assert steps == 3  # three quarters of each step are its own
    run_all(core)
    assert answers(long) == {0: [END]}
    assert max(sum(len(piece.ids) for piece in pieces) for pieces in step.steps) == 10


def test_equal_prompts_begin_to_answer_one_after_another():
    core = open_core(FakeStep(history_logits(10), 10, max_length=64), 64, step_tokens=10)
    asked = config(max_new_tokens=20, eos_token_id=[])
    handles = [submit(core, [1] * 20, asked) for _ in range(3)]
    begun = []
    while len(begun) < 3:
        core.run_once()
        begun += [each for each in handles if each.usage.completion_tokens and each not in begun]
        assert begun == handles[: len(begun)]
        assert len(begun) < 3 or handles[0].usage.completion_tokens >= 4
    run_all(core)


def test_prompts_are_read_also_while_answers_fill_every_step():
    step = FakeStep(history_logits(12), 12)
    core = open_core(step, 64, step_tokens=8)
    asked = config(max_new_tokens=30, eos_token_id=[])
    for _ in range(10):
        submit(core, [1], asked)
    core.run_once()
    core.run_once()
    heard = listened(submit(core, [2] * 6, asked))
    for _ in range(3):
        core.run_once()
    assert sum(len(piece.ids) for piece in step.steps[-1]) == 10 + 2
    assert heard


@pytest.mark.parametrize("is_whole", [False, True])
def test_searches_end_the_same_among_others_as_alone(is_whole):
    def run(together, num_blocks):
        step = FakeStep(history_logits(12), 12, is_whole=is_whole)
        cores = []
        handles = []
        for number in range(12):
            if not together or not cores:
                cores.append(open_core(step, num_blocks, step_tokens=5))
            asked = config(
                num_beams=2 + number % 3,
                num_return_sequences=2,
                max_new_tokens=13,
                eos_token_id=END if number % 4 == 3 else [],
            )
            handles.append(submit(cores[-1], [number % 2] * (3 + number % 7), asked))
        for core in cores:
            run_all(core)
            assert is_empty(core)
        return [answers(handle) for handle in handles], cores[0].stats().preemptions

    together, preemptions = run(True, 24)
    assert together == run(False, 64)[0]
    assert preemptions > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 65}, "num_beams: found 65; allowed: 1 to max_running, 64"),
        (
            {"num_beams": 16},
            "16 beams of up to 11 tokens need 48 blocks of the cache, which has 32",
        ),
        ({"num_beams": 2, "do_sample": True}, "do_sample: a search with num_beams 2 has none"),
        ({"num_beams": 2, "stop_strings": "a"}, "stop_strings: a search"),
    ],
)
def test_a_search_that_cannot_be_done_is_refused(settings, message):
    core = open_core(FakeStep(chain()))
    with pytest.raises(GenerationError, match=message):
        submit(core, [1, 1, 1], config(**settings))
    with pytest.raises(
        GenerationError, match="num_return_sequences: found 3; allowed: 1 to num_beams, 2"
    ):
        submit(core, [1], config(num_beams=2), num_answers=3)
    with pytest.raises(GenerationError, match="logprobs: a search"):
        submit(core, [1], config(num_beams=2), logprobs=1)


def test_thousands_of_requests_and_cancels_leave_no_block_behind():
    rng = np.random.default_rng(0)
    step = FakeStep(lambda ids: np.roll(np.arange(10, dtype=np.float32), ids[-1] + len(ids)))
    core = open_core(step, 20, step_tokens=12, max_running=12)
    going = []
    for number in range(2_000):
        prompt = [int(rng.integers(2))] * int(rng.integers(1, 11))
        beams = {"num_beams": 3} if number % 10 == 0 else {}
        asked = config(max_new_tokens=int(rng.integers(1, 13)), **beams)
        count = int(rng.integers(1, 4)) if not beams else 1
        going.append(submit(core, prompt, asked, num_answers=count))
        if rng.random() < 0.3:
            core.stop(going[int(rng.integers(max(0, len(going) - 9), len(going)))], "cancelled")
        while core.num_waiting > 20:
            core.run_once()
    run_all(core)
    assert is_empty(core)
    stats = core.stats()
    assert sum(stats.finished.values()) == 2_000
    assert stats.preemptions > 100
    assert stats.finished["cancelled"] > 100
