"""What every measuring process shares: its arguments, repeats under a time budget, and the line it prints.

Standard library only, and of ours what needs no more: the rivals' environments load this file as well.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.presets import CONTEXTS, GROWTH_NEW, SIZES
from mindformers.machine import usable_cpus

WORKS = ("decode", "prefill", "growth", "train", "lora", "first-token")
QUIET = 0.25  # cores busy with something else that a measurement hardly feels


def busy_seconds() -> float | None:
    """Return the CPU time all processes have used since the machine started; None where it is not told."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _, _, irq, soft, steal = (int(field) for field in fields)
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Return the CPU time of this process and of its ended children."""
    return sum(os.times()[:4])


@dataclass(frozen=True)
class Sample:
    """One repeat.

    Attributes:
        seconds: What the work took.
        load: Cores that were busy with something else meanwhile; None where it cannot be told.
    """

    seconds: float
    load: float | None


class Watch:
    """Times a stretch and tells how many cores were busy with something else meanwhile."""

    def __init__(self) -> None:
        self._busy, self._own, self._started = busy_seconds(), own_seconds(), time.perf_counter()

    def seconds(self) -> float:
        """Return the time since the start."""
        return time.perf_counter() - self._started

    def load(self) -> float | None:
        """Return the cores others kept busy; children that still run count as others. None: not told here."""
        after, own, wall = busy_seconds(), own_seconds(), self.seconds()
        if self._busy is None or after is None:
            return None
        return round(max(0.0, after - self._busy - (own - self._own)) / wall, 2)


def timed(work: Callable[[], float | None]) -> Sample:
    """Run the work once; what it returns is its time, None leaves that to the clock around it."""
    watch = Watch()
    told = work()
    wall = watch.seconds()
    return Sample(wall if told is None else told, watch.load())


def wait_until_quiet(seconds: float) -> None:
    """Wait until others keep less than a quarter of a core busy, at most so long."""
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        watch = Watch()
        time.sleep(0.25)
        if (watch.load() or 0.0) < QUIET:
            return


def repeat(
    work: Callable[[], float | None], arguments: argparse.Namespace, warm: bool = True
) -> list[Sample]:
    """Repeat until the time budget is spent or the most repeats are done, at least once.

    Args:
        work: See ``timed``.
        arguments: ``seconds`` and ``repeats`` of ``parse``.
        warm: Run the work once before, unmeasured.
    """
    if warm:
        work()
    samples: list[Sample] = []
    ends = time.perf_counter() + arguments.seconds
    while not samples or (len(samples) < arguments.repeats and time.perf_counter() < ends):
        samples.append(timed(work))
    return samples


def peak_mib() -> int:
    """Return the largest resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def report(
    who: str,
    arguments: argparse.Namespace,
    samples: list[Sample],
    amount: float = 0.0,
    **more: Any,
) -> None:
    """Print one JSON line.

    Args:
        who: The contestant.
        arguments: Of ``parse``; the work, size, number form and batch are taken from it.
        samples: Of ``repeat``; empty where the caller times from outside.
        amount: Tokens per repeat; the value is tokens per second. 0: the value is seconds.
        **more: Further fields.
    """
    values = [amount / s.seconds if amount else s.seconds for s in samples]
    loads = [s.load for s in samples if s.load is not None]
    line: dict[str, Any] = {
        "who": who,
        "what": arguments.what,
        "config": arguments.config,
        "dtype": arguments.dtype,
        "batch": arguments.batch,
        "value": round(statistics.median(values), 4) if values else None,
        "best": round(max(values) if amount else min(values), 4) if values else None,
        "unit": "tokens/s" if amount else "s",
        "repeats": len(values),
        "load": round(statistics.median(loads), 2) if loads else None,
        "peak_mib": peak_mib(),
        "threads": arguments.threads,
        **more,
    }
    print(json.dumps(line), flush=True)


def growing(longest: int) -> list[int]:
    """Return the contexts of the growth curves up to ``longest``, at least the first."""
    return [context for context in CONTEXTS if context <= longest] or [CONTEXTS[0]]


def report_growth(
    who: str, arguments: argparse.Namespace, context: int, reading: Sample, writing: Sample
) -> None:
    """Print the two lines of one context: tokens per second of its prompt, and of the tokens after it."""
    report(who, arguments, [reading], context, part="prefill", context=context)
    report(who, arguments, [writing], GROWTH_NEW, part="decode", context=context)


def skip(who: str, arguments: argparse.Namespace, reason: str) -> None:
    """Say that this work cannot be measured here."""
    report(who, arguments, [], skipped=reason)


def parse(description: str) -> argparse.Namespace:
    """Read the arguments of a measuring process."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--what", choices=WORKS, required=True)
    parser.add_argument("--config", choices=SIZES, required=True)
    parser.add_argument("--dtype", default="fp32", help="fp32, bf16, int8, int4; f16, q8_0, q4_0")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--models", type=Path, required=True, help="the folder weights.py filled")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--seconds", type=float, default=10.0, help="time budget of the repeats")
    parser.add_argument("--repeats", type=int, default=3, help="at most")
    parser.add_argument("--longest", type=int, default=32768, help="last context of growth")
    parser.add_argument("--compiled", action="store_true", help="torch.compile, static cache")
    return parser.parse_args()


def prompt_ids(vocab: int, batch: int, length: int) -> list[list[int]]:
    """Return the same made-up ids for every contestant; rows differ."""
    return [
        [5 + (7919 * (row + 1) * (i + 1) + i * i) % (vocab - 5) for i in range(length)]
        for row in range(batch)
    ]
