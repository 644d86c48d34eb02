"""Requests in any mix are answered as if each were alone; the cache holds ids, so that a mix-up shows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers.generation.config import GenerationConfig
from tests.support.engine import (
    FakeStep,
    alone,
    answers,
    chunks,
    is_empty,
    open_core,
    run_all,
    submit,
)
from tests.support.generation import END, chain, history_logits


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
