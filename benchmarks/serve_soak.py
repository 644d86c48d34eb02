"""A server under many requests of every kind over HTTP, of which a part is broken off: what stays behind.

    python -m benchmarks.serve_soak --models .bench/models --config tiny [--requests 10000] [--connections 32]

The server is ours with the weights of ``benchmarks.weights``; its cache is small, so that answers are given up
and read again. One JSON line a tenth of the way: resident memory and open files of the server; the last has its
counters when nothing runs any more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.presets import SIZES
from benchmarks.serve import ours, server
from mindformers.machine import usable_cpus

CACHE_TOKENS = 1024  # too few for what is asked at once
SCHEMAS = 200  # different ones; more than the grammars that are kept
BROKEN = 0.25  # share of the requests whose client leaves
_PARTS = 10  # lines of the report
_METRIC = re.compile(r"^mindformers_(\S+) (\S+)$", re.M)


def body(drawn: random.Random) -> tuple[str, dict[str, Any]]:
    """Return the path and the fields of a request: any endpoint, form, length and number of answers."""
    text = "abc" * drawn.randrange(1, 20) + str(drawn.randrange(50))
    fields: dict[str, Any] = {"max_tokens": drawn.randrange(1, 40), "n": drawn.choice((1, 1, 1, 3))}
    fields |= drawn.choice(
        ({}, {"temperature": 1, "seed": drawn.randrange(9)}, {"stop": ["a", "bc"]})
    )
    fields["stream"] = drawn.random() < 0.5
    if drawn.random() < 0.3:
        return "/v1/completions", {**fields, "prompt": drawn.choice((text, [text, "b"]))}
    fields["messages"] = [{"role": "user", "content": text}]
    form = drawn.choice(("text", "schema", "tool", "logprobs", "wrong"))
    if form == "wrong":
        fields["max_tokens"] = -1
    if form == "logprobs":
        fields |= {"logprobs": True, "top_logprobs": 3}
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "maxLength": drawn.randrange(SCHEMAS)}},
    }
    if form == "schema":
        fields["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "s", "schema": schema},
        }
    if form == "tool":
        fields["tools"] = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
        fields["tool_choice"] = drawn.choice(("auto", "required"))
    return "/v1/chat/completions", fields


async def ask(port: int, seed: int) -> str:
    """Send one request; return the status of its answer, or ``left`` where the client did not wait for the end."""
    drawn = random.Random(seed)
    path, fields = body(drawn)
    content = json.dumps(fields).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if drawn.random() < BROKEN:
            writer.write((head + content)[: drawn.choice((len(head), None, None, None))])
            await asyncio.sleep(drawn.random() * 0.1)
            return "left"
        writer.write(head + content)
        answer = await reader.read(-1)
        return answer[9:12].decode()
    finally:
        writer.close()


async def load(port: int, connections: int, seeds: Iterator[int]) -> Counter[str]:
    """Keep so many connections busy until the requests are over; return how they ended."""
    found: Counter[str] = Counter()

    async def stream() -> None:
        for seed in seeds:
            found[await ask(port, seed)] += 1

    await asyncio.gather(*(stream() for _ in range(connections)))
    return found


def counters(port: int) -> dict[str, float]:
    """Return the server's counters once nothing runs any more, or after ten seconds."""
    ends = time.monotonic() + 10
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            found = {name: float(value) for name, value in _METRIC.findall(answer.read().decode())}
        is_idle = not found["running_answers"] and not found["waiting_requests"]
        if is_idle or time.monotonic() > ends:
            return found
        time.sleep(0.1)


def held(process: int) -> dict[str, float]:
    """Return the resident memory (MiB) and the number of open files of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    files = sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())
    return {"resident_mib": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1), "files": files}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="the folder weights.py fills")
    parser.add_argument("--config", choices=SIZES, default="tiny")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    arguments = parser.parse_args()
    # What ``ours`` wants to know besides; the cache it asks for is replaced below.
    arguments.dtype, arguments.streams, arguments.prompt, arguments.new = "bf16", [16], 64, 64
    arguments.models = arguments.models.resolve()
    return arguments


def main() -> None:
    """Start the server, ask, and report."""
    arguments = parse()
    command = [*ours(arguments), "--cache_tokens", str(CACHE_TOKENS)]
    with server(command, arguments.threads) as (port, process):
        ended: Counter[str] = Counter()
        for part in range(_PARTS):
            first, last = (n * arguments.requests // _PARTS for n in (part, part + 1))
            ended += asyncio.run(load(port, arguments.connections, iter(range(first, last))))
            stats = counters(port)
            line = {"work": "serve-soak", "requests": last, **held(process), "ended": dict(ended)}
            print(json.dumps(line), flush=True)
        kept = (
            "running_answers",
            "waiting_requests",
            "cache_blocks",
            "cache_blocks_free",
            "preemptions_total",
        )
        print(
            json.dumps({"work": "serve-soak", **{name: stats[name] for name in kept}}), flush=True
        )


if __name__ == "__main__":
    main()
