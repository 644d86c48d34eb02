"""A stream of server-sent events, from its first to ``[DONE]``; an error on the way is one of them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from mindformers.generation.request import Chunk
from mindformers.serving.errors import ApiError, failed
from mindformers.serving.run import Run

_PING = b": still working\n\n"
_DONE = b"data: [DONE]\n\n"


def event(body: Any) -> bytes:
    """Return one event."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


async def events(
    run: Run,
    first: Iterable[Any],
    of_chunk: Callable[[Chunk], Iterable[Any]],
    last: Callable[[], Iterable[Any]],
) -> AsyncGenerator[bytes, None]:
    """Yield the events of a run, those that are there at once as one piece.

    Args:
        run: The engine's work.
        first: Bodies sent before anything is there.
        of_chunk: Returns the bodies of what is new in one answer.
        last: Returns the bodies sent after the end.
    """
    try:
        yield b"".join(map(event, first))
        while (chunks := await run.read()) is not None:
            yield b"".join(event(body) for c in chunks for body in of_chunk(c)) or _PING
        yield b"".join(map(event, last()))
    except ApiError as error:
        yield event(error.body)
    except Exception as error:
        yield event(failed(error).body)
    yield _DONE
