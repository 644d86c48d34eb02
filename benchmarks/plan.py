"""Which measurements there are, who takes part in each, and what ours is compared with."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.presets import SIZES

OURS = "mindformers"
TRANSFORMERS, COMPILED, PEFT = "transformers", "transformers compiled", "transformers + peft"
LLAMA = "llama.cpp"
CONTESTANTS = (OURS, TRANSFORMERS, COMPILED, PEFT, LLAMA)

# For each number form of ours: the contestants it is compared with.
RIVALS: dict[str, tuple[tuple[str, str], ...]] = {
    "fp32": ((TRANSFORMERS, "fp32"), (COMPILED, "fp32"), (PEFT, "fp32"), (LLAMA, "f32")),
    "bf16": ((TRANSFORMERS, "fp32"), (TRANSFORMERS, "bf16"), (LLAMA, "f16")),
    "int8": ((TRANSFORMERS, "fp32"), (LLAMA, "q8_0")),
    "int4": ((TRANSFORMERS, "fp32"), (LLAMA, "q4_0")),
}
_FLOATS = ((OURS, "fp32"), (OURS, "bf16"), (TRANSFORMERS, "fp32"), (TRANSFORMERS, "bf16"))
_LLAMA_FLOATS = ((LLAMA, "f32"), (LLAMA, "f16"))
_DECODE = (*_FLOATS, (OURS, "int8"), (OURS, "int4"), *_LLAMA_FLOATS, (LLAMA, "q8_0"))
_DECODE = (*_DECODE, (LLAMA, "q4_0"))

# Work on files: measured once a run, by scripts that repeat and compare by themselves.
FILES = {"convert": "bench_convert.py", "preprocess": "bench_preprocess.py"}


@dataclass(frozen=True)
class Group:
    """Measurements that are compared with each other: one work at one size and batch.

    Attributes:
        what: See ``measure.WORKS``.
        entrants: (contestant, number form), each a process of its own in every round.
    """

    what: str
    config: str
    batch: int
    entrants: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """What ``--only`` and the table call it."""
        return f"{self.what}-{self.config}-{self.batch}"


def _groups() -> list[Group]:
    groups = [
        Group("decode", "tiny", 1, (*_DECODE, (COMPILED, "fp32"))),
        Group("decode", "small", 1, (*_DECODE, (COMPILED, "fp32"))),
        Group("decode", "base", 1, _DECODE),
        *(Group("decode", config, 8, _DECODE) for config in SIZES),
        *(Group("prefill", config, 1, (*_FLOATS, *_LLAMA_FLOATS)) for config in SIZES),
        *(
            Group("train", config, size.train_batch, ((OURS, "fp32"), (TRANSFORMERS, "fp32")))
            for config, size in SIZES.items()
        ),
        *(
            Group("lora", config, SIZES[config].train_batch, ((OURS, "fp32"), (PEFT, "fp32")))
            for config in ("small", "base")
        ),
        Group("first-token", "small", 1, (*_FLOATS, *_LLAMA_FLOATS)),
        Group("first-token", "base", 1, (*_FLOATS, *_LLAMA_FLOATS)),
        Group("growth", "tiny", 1, ((OURS, "fp32"),)),
        Group("growth", "small", 1, ((OURS, "fp32"), (OURS, "bf16"))),
    ]
    return sorted(groups, key=lambda group: list(SIZES).index(group.config))


GROUPS = _groups()


def fits(name: str, only: Sequence[str], skip: Sequence[str]) -> bool:
    """Tell whether a name is asked for: it fits a pattern of ``only`` (any without one), none of ``skip``."""
    wanted = not only or any(fnmatch.fnmatch(name, pattern) for pattern in only)
    return wanted and not any(fnmatch.fnmatch(name, pattern) for pattern in skip)


def select(only: Sequence[str], who: Sequence[str], skip: Sequence[str] = ()) -> list[Group]:
    """Return the groups that are asked for, with the chosen contestants.

    Args:
        only: Patterns of names, as a shell writes them: ``decode-small-*``; empty: all.
        who: Contestants; empty: all.
        skip: Patterns of names to leave out.

    Raises:
        ValueError: If a pattern fits no measurement.
    """
    names = [*(group.name for group in GROUPS), *FILES]
    for pattern in (*only, *skip):
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"no measurement is called {pattern!r}; there are: {', '.join(names)}")
    chosen = []
    for group in GROUPS:
        entrants = tuple(entrant for entrant in group.entrants if not who or entrant[0] in who)
        if entrants and fits(group.name, only, skip):
            chosen.append(Group(group.what, group.config, group.batch, entrants))
    return chosen


def module_of(who: str) -> str:
    """Return the module that measures a contestant."""
    modules = {OURS: "benchmarks.ours", LLAMA: "benchmarks.rival_llamacpp"}
    return modules.get(who, "benchmarks.rival_transformers")
