"""The engine under load, straight through its own interface: throughput, shared prompts, many requests and cancels.

    python -m benchmarks.engine_load [--config small] [--dtype bf16] [--models .bench/models] [--streams 1 4 16 64]
        [--new 64] [--requests 10000]

The models are those of ``python -m benchmarks.weights``. One JSON line for each part:

- ``streams``: tokens a second of so many requests at once, all of the same form, beside one by one in the same run;
- ``prefix``: time to the first token of a long prompt, new and read before;
- ``soak``: so many short requests from several threads, a third of them cancelled; memory and blocks before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measure import Watch
from benchmarks.presets import PREFILL, PROMPT, SIZES
from benchmarks.weights import directory, write
from mindformers.errors import EngineBusyError
from mindformers.generation.config import GenerationConfig
from mindformers.generation.request import Request
from mindformers.generation.serving_engine import ServingEngine, open_engine
from mindformers.machine import usable_cpus
from mindformers.models.auto import open_in_files

THREADS = 8  # that hand in requests at once
SOAK_BLOCKS = 24  # too few for what they ask: answers are given up and read again


def resident_mib() -> float:
    """Return the resident memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def prompt(vocab: int, length: int, seed: int) -> list[int]:
    """Return a random prompt."""
    drawn = random.Random(seed)
    return [drawn.randrange(1, vocab) for _ in range(length)]


def streams(engine: ServingEngine, vocab: int, counts: list[int], new: int) -> None:
    """Time ``count`` requests at once, for each count."""
    config = GenerationConfig(max_new_tokens=new, eos_token_id=[])
    for count in counts:
        watch = Watch()
        handles = [
            engine.submit(Request(prompt(vocab, PROMPT, 1000 * count + n), config))
            for n in range(count)
        ]
        for handle in handles:
            for _ in handle:
                pass
        seconds = watch.seconds()
        say("streams", count=count, new=new, prompt=PROMPT, seconds=round(seconds, 3),
            tokens_per_second=round(count * new / seconds, 2), load=watch.load())  # fmt: skip


def prefix(engine: ServingEngine, vocab: int) -> None:
    """Time the first token of a prompt that nobody read before, and of the same one with another end."""
    config = GenerationConfig(max_new_tokens=1, eos_token_id=[])
    long = prompt(vocab, PREFILL, 7)
    for name, ids in (("new", [*long, 1]), ("known", [*long, 2])):
        watch = Watch()
        handle = engine.submit(Request(ids, config))
        for _ in handle:
            pass
        say("prefix", prompt=name, tokens=len(ids), cached=handle.usage.cached_tokens,
            first_token_seconds=round(watch.seconds(), 4), load=watch.load())  # fmt: skip


def soak(engine: ServingEngine, vocab: int, requests: int) -> None:
    """Hand in many requests from several threads and cancel a third of them at any moment."""
    drain(engine)
    before, started = resident_mib(), time.perf_counter()
    drawn = random.Random(3)
    gate = threading.Semaphore(4 * THREADS)

    def ask(number: int) -> None:
        own = random.Random(number)
        config = GenerationConfig(max_new_tokens=own.randrange(1, 33), do_sample=number % 2 == 0)
        beginning = prompt(vocab, 48, number % 5)
        ids = beginning[: own.randrange(1, 49)] + prompt(vocab, own.randrange(1, 9), number)
        while True:
            try:
                handle = engine.submit(Request(ids, config, num_answers=own.choice((1, 1, 1, 3))))
                break
            except EngineBusyError:
                time.sleep(0.01)
        if own.random() < 1 / 3:
            time.sleep(own.random() * 0.02)
            handle.cancel()
        for _ in handle:
            pass
        gate.release()

    middle: Any = None
    with ThreadPoolExecutor(THREADS) as pool:
        for number in range(requests):
            gate.acquire()
            pool.submit(ask, drawn.randrange(2**40))
            if number == requests // 2:
                middle = resident_mib()
    stats = drain(engine)
    say("soak", requests=requests, seconds=round(time.perf_counter() - started, 1), finished=stats.finished,
        preemptions=stats.preemptions, blocks=stats.blocks, free_blocks=stats.free_blocks,
        cached_blocks=stats.cached_blocks, resident_mib=[before, middle, resident_mib()])  # fmt: skip


def drain(engine: ServingEngine) -> Any:
    """Wait until nothing runs; return the counters."""
    while (stats := engine.stats()).running or stats.waiting:
        time.sleep(0.01)
    return stats


def say(part: str, **values: Any) -> None:
    """Print one JSON line."""
    print(json.dumps({"work": f"engine-{part}", **values}), flush=True)


def main() -> None:
    """Run the parts one after another."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", choices=SIZES, default="small")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--models", type=Path, default=Path(".bench/models"))
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--new", type=int, default=64, help="tokens of each answer of the streams")
    parser.add_argument("--requests", type=int, default=10_000, help="of the soak; 0 leaves it out")
    given = parser.parse_args()
    folder = directory(given.models, given.config, given.dtype)
    if not folder.is_dir():
        write(given.models, given.config, given.dtype)
    vocab = SIZES[given.config].vocab
    say("machine", cores=usable_cpus(), config=given.config, dtype=given.dtype)
    model = open_in_files(folder)
    longest = -(-(PROMPT + given.new) // model.config.block_size)
    num_blocks = max(
        longest * max(given.streams, default=1), 2 * PREFILL // model.config.block_size
    )
    with open_engine(model, num_blocks=num_blocks) as engine:
        streams(engine, vocab, [1], 8)  # the first call fills what is filled once
        streams(engine, vocab, given.streams, given.new)
        prefix(engine, vocab)
    if given.requests:
        with open_engine(model, num_blocks=SOAK_BLOCKS) as engine:
            soak(engine, vocab, given.requests)


if __name__ == "__main__":
    main()
