"""Chunks from one thread to an event loop."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest

from mindformers.generation.request import Chunk, TokenLogprob, Usage
from mindformers.serving.feed import Bell, Feed


class Handle:
    usage = Usage()

    def __init__(self) -> None:
        self.callback: Any = None
        self.num_cancelled = 0

    def listen(self, callback: Any) -> None:
        self.callback = callback

    def cancel(self) -> None:
        self.num_cancelled += 1


def test_what_is_not_read_is_joined_and_nothing_is_lost() -> None:
    async def read() -> None:
        handle = Handle()
        feed = Feed([handle], 2, Bell())
        for number in range(3):
            handle.callback(Chunk(0, (number,), "abc"[number], "", (TokenLogprob(number, -1.0),)))
        handle.callback(Chunk(1, (9,), "z", "stop"))
        first, second = await feed.read(5)
        assert first == Chunk(
            0, (0, 1, 2), "abc", "", tuple(TokenLogprob(n, -1.0) for n in range(3))
        )
        assert second == Chunk(1, (9,), "z", "stop")
        handle.callback(Chunk(0, (), "d", "length"))
        handle.callback(None)
        assert await feed.read(5) == [Chunk(0, (), "d", "length")]
        assert await feed.read(5) is None
        assert await feed.read(5) is None

    asyncio.run(read())


def test_answers_of_several_prompts_are_numbered_through() -> None:
    async def read() -> None:
        handles = [Handle(), Handle()]
        feed = Feed(handles, 3, Bell())
        handles[1].callback(Chunk(2, (1,), "x"))
        assert [chunk.index for chunk in await feed.read(5)] == [5]
        handles[0].callback(None)
        handles[1].callback(None)
        assert await feed.read(5) is None

    asyncio.run(read())


def test_an_error_comes_after_what_was_said_before_it() -> None:
    async def read() -> None:
        handle = Handle()
        feed = Feed([handle], 1, Bell())
        handle.callback(Chunk(0, (1,), "x"))
        handle.callback(ValueError("broken"))
        handle.callback(None)
        assert [chunk.text for chunk in await feed.read(5)] == ["x"]
        with pytest.raises(ValueError, match="broken"):
            await feed.read(5)

    asyncio.run(read())


def test_patience_ends_a_wait_with_nothing() -> None:
    async def read() -> None:
        handle = Handle()
        feed = Feed([handle], 1, Bell())
        assert await feed.read(0.01) == []
        handle.callback(Chunk(0, (1,), "x"))
        assert len(await feed.read(0.01)) == 1
        assert await feed.read(0.01) == []

    asyncio.run(read())


def test_threads_and_loop_lose_nothing_between_them() -> None:
    async def read() -> list[str]:
        handles = [Handle() for _ in range(4)]
        feed = Feed(handles, 1, Bell())

        def write(handle: Handle) -> None:
            rng = random.Random(id(handle))
            for number in range(500):
                handle.callback(Chunk(0, (number,), f"{number},"))
                if rng.random() < 0.02:
                    threading.Event().wait(0.0005)
            handle.callback(None)

        threads = [threading.Thread(target=write, args=(handle,)) for handle in handles]
        for thread in threads:
            thread.start()
        texts = [""] * 4
        while (chunks := await feed.read(5)) is not None:
            assert chunks, "nothing came for five seconds"
            for chunk in chunks:
                texts[chunk.index] += chunk.text
        return texts

    assert asyncio.run(read()) == ["".join(f"{number}," for number in range(500))] * 4


def test_a_listener_may_outlive_the_loop() -> None:
    handle = Handle()

    async def open_feed() -> None:
        Feed([handle], 1, Bell())

    asyncio.run(open_feed())
    handle.callback(Chunk(0, (1,), "x"))
    handle.callback(None)


def test_what_is_due_together_is_rung_by_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ring() -> tuple[int, list[bool]]:
        bell, calls = Bell(), []
        soon = bell.loop.call_soon_threadsafe
        monkeypatch.setattr(
            bell.loop, "call_soon_threadsafe", lambda *given: (calls.append(1), soon(*given))
        )
        events = [asyncio.Event() for _ in range(3)]
        for event in events:
            bell.ring(event)
        await asyncio.sleep(0.01)
        found = [event.is_set() for event in events]
        bell.ring(asyncio.Event())
        return len(calls), found

    assert asyncio.run(ring()) == (2, [True, True, True])
