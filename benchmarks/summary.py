"""Recorded lines -> medians, ratios within a round, shares of the limit. No measuring here."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.plan import LLAMA, OURS, RIVALS
from benchmarks.presets import CACHED_MIB, PREFILL, SIZES, TRAIN_LENGTH, Size

Line = Mapping[str, Any]
DISTURBED = 0.5  # cores others kept busy; above it a round is left out ...
ENOUGH = 3  # ... if at least so many remain


@dataclass(frozen=True, order=True)
class Key:
    """What a figure is of; ``part`` and ``context`` tell the points of the growth curves apart."""

    config: str
    what: str
    batch: int
    who: str
    dtype: str
    part: str = ""
    context: int = 0


@dataclass(frozen=True)
class Figure:
    """All rounds of one figure.

    Attributes:
        values: By round.
        unit: ``tokens/s`` or ``s``.
        peaks: Peak memory of each round's process, MiB.
        loads: Cores busy with something else in each round.
        note: Why there is no value, if there is none.
        disturbed: Rounds that were left out because others kept the machine busy.
    """

    unit: str
    values: dict[int, float] = field(default_factory=dict)
    peaks: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    note: str = ""
    disturbed: int = 0

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.values.values())

    @property
    def peak(self) -> float | None:
        """Median peak memory, MiB."""
        return statistics.median(self.peaks) if self.peaks else None

    @property
    def load(self) -> float | None:
        """Median load by others, cores."""
        return statistics.median(self.loads) if self.loads else None


@dataclass(frozen=True)
class Ratio:
    """How many times faster ours is than a rival: the ratio within each round, then their median."""

    who: str
    dtype: str
    median: float
    lowest: float
    highest: float
    memory: float | None  # our peak over the rival's


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the recorded lines of a file."""
    return [json.loads(text) for text in path.read_text().splitlines() if text.strip()]


def _key(line: Line) -> Key:
    names = ("config", "what", "batch", "who", "dtype")
    return Key(*(line[n] for n in names), line.get("part", ""), line.get("context", 0))


def _undisturbed(lines: Sequence[Line]) -> Sequence[Line]:
    """Leave out what was measured while others kept the machine busy, where enough remains."""
    quiet = [line for line in lines if (line.get("load") or 0.0) <= DISTURBED]
    return quiet if len(quiet) >= ENOUGH else lines


def _figure(lines: Sequence[Line]) -> Figure:
    """Make one figure of all its rounds."""
    measured = [line for line in lines if line.get("value") is not None]
    if not measured:
        last = lines[-1]
        return Figure("", note=last.get("skipped") or last.get("error") or "no value")
    used = _undisturbed(measured)
    figure = Figure(used[0]["unit"], disturbed=len(measured) - len(used))
    for line in used:
        figure.values[line["round"]] = line["value"]
        for name, kept in (("peak_mib", figure.peaks), ("load", figure.loads)):
            if line.get(name) is not None:
                kept.append(line[name])
    return figure


def figures(lines: Iterable[Line]) -> dict[Key, Figure]:
    """Collect the contestants' lines by what they are of, in the order they first appear."""
    found: dict[Key, list[Line]] = {}
    for line in lines:
        if line["who"] not in ("limit", "files"):
            found.setdefault(_key(line), []).append(line)
    return {key: _figure(each) for key, each in found.items()}


def machine_limits(lines: Iterable[Line]) -> dict[str, float]:
    """Return the machine's limits: the median over the rounds of each round's best."""
    found = defaultdict(list)
    for line in lines:
        if line["who"] == "limit":
            found[line["what"]].append(line)
    return {
        what: statistics.median(line["value"] for line in _undisturbed(each))
        for what, each in found.items()
    }


def limit_of(key: Key, machine: Mapping[str, float]) -> float | None:
    """Return the most tokens per second the machine allows for a figure; None where there is no such limit.

    Decoding reads every weight once a step and computes at most at the multiply-add peak; prompts and
    training are bound by the matrix product.
    """
    size: Size = SIZES[key.config]
    decodes = key.what == "decode" or key.part == "decode"
    if decodes and {"read", "fma"} <= machine.keys():
        context = {"context": key.context} if key.context else {}
        amount = size.decode_bytes(key.dtype, key.batch, **context)
        speed = machine["read"]
        if amount <= CACHED_MIB * 2**20:
            speed = machine.get("read, cached", speed)
        reading = amount / (speed * 1e9)
        computing = size.decode_flops(key.batch) / (machine["fma"] * 1e9)
        return key.batch / max(reading, computing)
    if decodes or "gemm" not in machine:
        return None
    product = machine["gemm"] * 1e9
    if key.what in ("train", "lora"):
        return size.train_batch * TRAIN_LENGTH * product / size.train_flops(lora=key.what == "lora")
    if key.what == "prefill" or key.part == "prefill":
        tokens = key.context or PREFILL
        return tokens * product / size.prefill_flops(tokens)
    return None


def ratios(ours: Key, found: Mapping[Key, Figure]) -> list[Ratio]:
    """Return ours against each rival that ran in the same rounds; above 1 is faster.

    Args:
        ours: A figure of ours.
        found: Of ``figures``.
    """
    mine = found[ours]
    results = []
    for who, dtype in RIVALS.get(ours.dtype, ()):
        other = found.get(Key(ours.config, ours.what, ours.batch, who, dtype))
        both = sorted(mine.values.keys() & other.values.keys()) if other else []
        if not other or not both:
            continue
        each = [mine.values[r] / other.values[r] for r in both]
        if mine.unit == "s":
            each = [1 / value for value in each]
        memory = mine.peak / other.peak if mine.peak and other.peak else None
        middle = statistics.median(each)
        results.append(Ratio(who, dtype, middle, min(each), max(each), memory))
    return results


def of_work(
    found: Mapping[Key, Figure], what: Sequence[str], who: str | None = None
) -> list[tuple[Key, Figure]]:
    """Return the figures of some works, in the table's order: size, batch, ours first."""
    order = list(SIZES)
    chosen = [
        (key, figure)
        for key, figure in found.items()
        if key.what in what and (who is None or key.who == who)
    ]

    def rank(pair: tuple[Key, Figure]) -> tuple[Any, ...]:
        key = pair[0]
        group = (what.index(key.what), order.index(key.config), key.batch)
        return (*group, key.who != OURS, key.who == LLAMA, key.part, key.context)

    return sorted(chosen, key=rank)
