"""Training rows as a person reads them: what is learnt stands out from what is given."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from mindformers.config.columns import IGNORED_LABEL


def trained_runs(
    tokenizer: Any, input_ids: np.ndarray, labels: np.ndarray
) -> list[tuple[str, bool]]:
    """Return a training row as stretches of text, each with whether the model learns it.

    Args:
        tokenizer: Decodes ids; special tokens stay visible.
        input_ids: (tokens,) of a stored row, without its filling.
        labels: (tokens,) of the same row, shifted.
    """
    learnt = labels != IGNORED_LABEL
    # Token i + 1 of the conversation is the label of position i.
    ids = [int(token) for token in input_ids]
    flags = [False, *map(bool, learnt[:-1])]
    if learnt[-1]:
        ids.append(int(labels[-1]))
        flags.append(True)
    runs: list[tuple[list[int], bool]] = []
    for token, flag in zip(ids, flags, strict=True):
        if not runs or runs[-1][1] != flag:
            runs.append(([], flag))
        runs[-1][0].append(token)
    decode = tokenizer.decode
    return [(decode(part, False, spaces_between_special_tokens=False), flag) for part, flag in runs]


def print_sample(number: int, runs: Sequence[tuple[str, bool]], note: str) -> None:
    """Print a training row: what is learnt is green, or in {+ +} where there is no terminal."""
    if not sys.stdout.isatty():
        print(f"--- sample {number} ({note}); {{+learnt+}}")
        print("".join(f"{{+{printable(t)}+}}" if flag else printable(t) for t, flag in runs))
        return
    from rich.console import Console
    from rich.rule import Rule
    from rich.text import Text

    text = Text()
    for part, flag in runs:
        text.append(printable(part), style="bold green" if flag else "dim")
    console = Console()
    console.print(Rule(f"sample {number} ({note}); green is learnt"))
    console.print(text)


def printable(text: str) -> str:
    """Return ``text`` with control characters written out, so that data cannot steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
