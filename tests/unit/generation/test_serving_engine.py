"""The thread that owns the network: requests from other threads, slow readers, limits, failures that stay alone."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from mindformers.errors import EngineBusyError, GenerationError
from mindformers.generation import serving_engine
from mindformers.generation.config import GenerationConfig
from mindformers.generation.request import Request
from mindformers.generation.serving_engine import ServingEngine
from tests.support.engine import FakeStep, alone, answers, open_core
from tests.support.generation import END, chain, history_logits

CHAIN = chain((1, 2), (2, 3))


def config(**settings):
    return GenerationConfig(**{"eos_token_id": END, "max_new_tokens": 8, **settings})


class Gate:
    """A step that waits until it may go on, so that a test decides what happens between two steps."""

    def __init__(self, logits):
        self.inner, self.passes, self.entered = (
            logits,
            threading.Semaphore(0),
            threading.Semaphore(0),
        )

    def __call__(self, ids):
        self.entered.release()
        assert self.passes.acquire(timeout=20)
        return self.inner(ids)


@pytest.fixture
def opened():
    engines = []

    def start(logits=CHAIN, vocab_size=10, **settings):
        engine = ServingEngine(open_core(FakeStep(logits, vocab_size), **settings))
        engines.append((engine, logits))
        return engine

    yield start
    for engine, logits in engines:
        if isinstance(logits, Gate):
            logits.passes.release(10_000)
        engine.close()


def test_many_threads_get_what_each_would_get_alone(opened):
    step = FakeStep(history_logits(12), 12)
    engine = opened(history_logits(12), 12, num_blocks=40, step_tokens=9)
    found, errors = {}, []

    def ask(number):
        try:
            prompt = [number % 3] * (1 + number % 7)
            found[number] = answers(engine.submit(Request(prompt, config(), seed=number)))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    for number in range(40):
        assert found[number] == {0: alone(step, [number % 3] * (1 + number % 7), config())[0]}
    stats = engine.stats()
    assert stats.free_blocks == stats.blocks
    assert stats.finished.get("stop", 0) + stats.finished.get("length", 0) == 40


def test_a_slow_reader_holds_up_nobody_and_gets_all_as_one_chunk(opened):
    engine = opened()
    slow = engine.submit(Request([1], config()))
    assert answers(engine.submit(Request([2], config()))) == {0: [3, END]}
    assert engine.drain(20)
    (chunk,) = slow
    assert (chunk.tokens, chunk.finish_reason) == ((2, 3, END), "stop")


def test_a_listener_is_called_with_chunks_and_none_also_when_it_comes_late(opened):
    engine = opened()
    for is_late in (False, True):
        heard, ended = [], threading.Event()

        def listen(item, heard=heard, ended=ended):
            heard.append(item)
            if item is None:
                ended.set()

        handle = engine.submit(Request([1], config()))
        if is_late:
            assert engine.drain(20)
        handle.listen(listen)
        assert ended.wait(20)
        assert [t for chunk in heard[:-1] for t in chunk.tokens] == [2, 3, END]
        assert heard[-1] is None


def test_a_listener_that_fails_ends_its_own_request_alone(opened):
    gate = Gate(CHAIN)
    engine = opened(gate)
    first = engine.submit(Request([1], config()))
    second = engine.submit(Request([2], config()))

    def broken(item):
        raise RuntimeError("reader left")

    first.listen(broken)
    gate.passes.release(100)
    assert answers(second) == {0: [3, END]}
    assert engine.drain(20)
    assert engine.stats().finished == {"stop": 1, "cancelled": 1}


def test_cancel_ends_an_answer_within_a_step(opened):
    gate = Gate(chain((1, 1)))
    engine = opened(gate)
    handle = engine.submit(Request([1], config(max_new_tokens=50)))
    for _ in range(3):
        assert gate.entered.acquire(timeout=20)
        gate.passes.release()
    assert gate.entered.acquire(timeout=20)
    handle.cancel()
    handle.cancel()
    gate.passes.release()
    found = list(handle)
    assert found[-1].finish_reason == "cancelled"
    assert sum(len(chunk.tokens) for chunk in found) == 4
    assert engine.stats().free_blocks == engine.stats().blocks


def test_a_request_ends_at_its_time_limit_whether_it_runs_or_waits(opened):
    gate = Gate(chain((1, 1)))
    engine = opened(gate, max_running=1)
    running = engine.submit(Request([1], config(max_new_tokens=50), timeout=0.05))
    waiting = engine.submit(Request([1], config(max_new_tokens=50), timeout=0.05))
    assert gate.entered.acquire(timeout=20)
    time.sleep(0.1)
    gate.passes.release()
    assert [chunk.finish_reason for chunk in running][-1] == "timeout"
    assert [(chunk.tokens, chunk.finish_reason) for chunk in waiting] == [((), "timeout")]


def test_a_full_queue_says_when_to_come_again(opened):
    gate = Gate(CHAIN)
    engine = opened(gate, max_running=1, max_waiting=2)
    first = engine.submit(Request([1], config()))
    assert gate.entered.acquire(timeout=20)
    others = [engine.submit(Request([1], config())) for _ in range(2)]
    assert (engine.stats().running, engine.stats().waiting) == (1, 2)
    with pytest.raises(EngineBusyError, match="2 requests wait already") as caught:
        engine.submit(Request([1], config()))
    assert caught.value.retry_after >= 1
    gate.passes.release(100)
    assert [answers(handle) for handle in (first, *others)] == [{0: [2, 3, END]}] * 3


def test_an_engine_that_drains_takes_nothing_more_and_ends_what_runs(opened):
    gate = Gate(CHAIN)
    engine = opened(gate)
    handle = engine.submit(Request([1], config()))
    assert not engine.drain(0.01)
    with pytest.raises(EngineBusyError, match="takes no more requests"):
        engine.submit(Request([1], config()))
    gate.passes.release(100)
    assert engine.drain(20)
    assert answers(handle) == {0: [2, 3, END]}


def test_closing_cancels_what_runs_and_what_waits(opened):
    gate = Gate(chain((1, 1)))
    engine = opened(gate, max_running=1)
    handles = [engine.submit(Request([1], config())) for _ in range(2)]
    assert gate.entered.acquire(timeout=20)
    gate.passes.release(100)
    engine.close()
    engine.close()
    assert [list(handle)[-1].finish_reason for handle in handles] == ["cancelled"] * 2
    with pytest.raises(GenerationError, match="the engine is closed"):
        engine.submit(Request([1], config()))


class Broken:
    """A constraint that fails at its third token."""

    def __init__(self):
        self.left = 3

    def allowed(self):
        self.left -= 1
        if not self.left:
            raise ValueError("no such state")
        return np.ones(10, bool)

    def accept(self, token):
        pass

    def copy(self):
        return self


def test_a_request_that_fails_leaves_the_others_alone(opened):
    engine = opened(chain((1, 2), (2, 3), (3, 4), (4, 5)))
    handles = [
        engine.submit(Request([1], config(), constraint=opening))
        for opening in (None, Broken, None)
    ]
    with pytest.raises(ValueError, match="no such state"):
        list(handles[1])
    assert [answers(handles[place]) for place in (0, 2)] == [{0: [2, 3, 4, 5, END]}] * 2
    assert engine.stats().finished == {"stop": 2, "error": 1}
    assert engine.stats().free_blocks == engine.stats().blocks


def test_a_step_that_fails_ends_those_in_it_and_the_engine_goes_on(opened):
    def logits(ids):
        if ids == [5]:
            raise MemoryError("no memory")
        return CHAIN(ids)

    engine = opened(logits)
    with pytest.raises(MemoryError):
        list(engine.submit(Request([5], config())))
    assert answers(engine.submit(Request([1], config()))) == {0: [2, 3, END]}


def test_a_fault_of_the_engines_own_reaches_everybody_and_closes_it(opened, monkeypatch):
    gate = Gate(CHAIN)
    engine = opened(gate, max_running=1)
    handles = [engine.submit(Request([1], config())) for _ in range(2)]
    assert gate.entered.acquire(timeout=20)

    def broken():
        raise AssertionError("no such block")

    monkeypatch.setattr(engine._core.scheduler, "plan", broken)
    gate.passes.release(10)
    for handle in handles:
        with pytest.raises(AssertionError, match="no such block"):
            list(handle)
    with pytest.raises(GenerationError, match="the engine is closed"):
        engine.submit(Request([1], config()))


def test_the_cache_limits_the_length_of_a_request(opened):
    engine = opened(chain((1, 1)), num_blocks=3)
    assert engine.max_length == 12
    with pytest.raises(
        GenerationError, match="the cache holds 12 of a request, the model 64; raise num_blocks"
    ):
        engine.submit(Request([1] * 12, config()))
    (chunk,) = [each for each in engine.submit(Request([1] * 9, config())) if each.finish_reason]
    assert chunk.finish_reason == "length"


class Model:
    """As much of a model as opening an engine takes."""

    def __init__(self, block_bytes):
        self.config = SimpleNamespace(num_blocks=5)
        self.step = FakeStep(CHAIN)  # 64 tokens, 4 in a block
        self.step.block_bytes = block_bytes

    def build_step(self):
        return self.step

    def answering(self):
        return nullcontext()


@pytest.mark.parametrize(
    ("block_bytes", "free", "blocks"),
    [(100, 10**9, 3 * 16), (100, 4_000, 10), (100, 400, 5), (100, None, 5), (0, 10**9, 5)],
)
def test_without_a_number_the_cache_holds_what_answers_may_need_if_memory_is_free(
    monkeypatch, block_bytes, free, blocks
):
    monkeypatch.setattr(serving_engine, "free_memory", lambda: free)
    with serving_engine.open_engine(Model(block_bytes), max_running=3) as engine:
        assert engine.stats().blocks == blocks
    with serving_engine.open_engine(Model(block_bytes), num_blocks=3) as engine:
        assert engine.stats().blocks == 3


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        (lambda: Request([], config()), "prompt 0: is empty"),
        (lambda: Request([10], config()), "prompt 0: id 10 at place 0"),
        (lambda: Request([1] * 64, config()), "prompt 0: has 64 tokens and leaves no room"),
        (lambda: Request([1], config(), num_answers=0), "num_answers: found 0; allowed: 1 or more"),
        (
            lambda: Request([1], config(), num_answers=65),
            "num_answers: found 65; allowed: 1 to max_running, 64",
        ),
        (lambda: Request([1], config(), timeout=0), "timeout: found 0; allowed: above 0"),
        (lambda: Request([1], config(), logprobs=-1), "logprobs: found -1; allowed: 0 or more"),
        (lambda: Request([1], config(), seed=-1), "seed: found -1"),
        (lambda: Request([1], config(stop_strings="x")), "stop_strings: .* no tokenizer"),
    ],
)
def test_what_can_never_be_answered_is_refused_when_it_is_submitted(opened, request_of, message):
    engine = opened()
    with pytest.raises(GenerationError, match=message):
        engine.submit(request_of())
    assert engine.stats().finished == {}


@pytest.mark.parametrize("name", ["num_blocks", "max_running", "max_waiting", "step_tokens"])
def test_a_limit_below_one_is_refused(name):
    with pytest.raises(GenerationError, match=f"{name}: found 0; allowed: 1 or more"):
        open_core(FakeStep(CHAIN), **{name: 0})
