"""A load of streams on a server that speaks OpenAI's protocol. Standard library only.

Many streams at once, each one request after another; what comes is looked at no closer than needed, so that the
client takes little of the machine's time from the server.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

_MARK = b"data: "


@dataclass
class Answer:
    """One request's times.

    Attributes:
        first: Seconds to the first text.
        gaps: Seconds between what came.
        tokens: Tokens of the answer.
        error: Why there is none; empty otherwise.
    """

    first: float = 0.0
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str = ""


async def ask(port: int, body: dict[str, Any]) -> Answer:
    """Send one request for a stream and follow it to its end."""
    content = json.dumps({**body, "stream": True}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + content)
        status = (await reader.readline()).split()
        if status[1:2] != [b"200"]:
            return Answer(error=" ".join(part.decode() for part in status[1:]))
        return await _follow(reader, started, body["max_tokens"])
    finally:
        writer.close()


async def _follow(reader: asyncio.StreamReader, started: float, longest: int) -> Answer:
    answer, last, is_cut = Answer(), started, False
    async for line in reader:
        if not line.startswith(_MARK) or line.startswith(b"data: [DONE]"):
            continue
        event = json.loads(line[len(_MARK) :])
        if "error" in event:
            answer.error = str(event["error"])
            break
        choice = event["choices"][0]
        is_cut |= choice["finish_reason"] == "length"
        if not choice["text"]:
            continue
        now = time.perf_counter()
        if answer.tokens:
            answer.gaps.append(now - last)
        else:
            answer.first = now - started
        answer.tokens, last = answer.tokens + 1, now
    if is_cut:  # several tokens may come at once
        answer.tokens = longest
    return answer


async def _stream(port: int, bodies: list[dict[str, Any]]) -> list[Answer]:
    return [await ask(port, body) for body in bodies]


def prompt(number: int, length: int) -> str:
    """Return a text of ``length`` tokens of the served vocabulary; another number, another beginning."""
    digits = f"{number:06d}"
    return (digits + "0123456789" * (length // 10 + 1))[:length]


def load(
    port: int, streams: int, *, requests: int, length: int, new: int, first: int = 0
) -> dict[str, Any]:
    """Run a load and return its figures.

    Args:
        port: The server's, on 127.0.0.1.
        streams: At once.
        requests: Of each stream, one after another.
        length: Tokens of a prompt; no two begin alike.
        new: Tokens of an answer.
        first: Number of the first prompt; others than a server has read begin differently.
    """

    async def run() -> list[list[Answer]]:
        bodies = [
            [
                {"prompt": prompt(first + s * requests + r, length), "max_tokens": new, "temperature": 0}
                for r in range(requests)
            ]
            for s in range(streams)
        ]  # fmt: skip
        return list(await asyncio.gather(*(_stream(port, each) for each in bodies)))

    started = time.perf_counter()
    answers = [answer for stream in asyncio.run(run()) for answer in stream]
    seconds = time.perf_counter() - started
    failed = [answer.error for answer in answers if answer.error]
    firsts = [answer.first * 1e3 for answer in answers if answer.tokens]
    gaps = [gap * 1e3 for answer in answers for gap in answer.gaps]
    return {
        "streams": streams,
        "requests": len(answers),
        "value": round(sum(answer.tokens for answer in answers) / seconds, 2),
        "unit": "tokens/s",
        "first_ms_p50": quantile(firsts, 50),
        "first_ms_p99": quantile(firsts, 99),
        "gap_ms_p50": quantile(gaps, 50),
        "gap_ms_p99": quantile(gaps, 99),
        "errors": len(failed),
        "error": failed[0] if failed else None,
    }


def quantile(values: list[float], percent: int) -> float | None:
    """Return the value that ``percent`` of all are not above; None without any."""
    if len(values) < 2:
        return round(values[0], 2) if values else None
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return round(cuts[percent - 1], 2)
