"""``TokenRow``: some tokens and what is asked of them; where the answers of a row begin and end.

Letters: S tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mindformers.config.columns import IGNORED_LABEL
from mindformers.config.evaluation import Turns

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class TokenRow:
    """A row and what is asked of it.

    Attributes:
        ids: (S,) int32.
        labels: (S,) int32, what follows each id; -100 where it does not count.
    """

    ids: Ids
    labels: Ids


def rows_of(batches: Iterable[Mapping[str, Ids]]) -> Iterator[TokenRow]:
    """Yield the rows of batches without what stands behind the last label: it changes none before it.

    Args:
        batches: ``input_ids`` and ``labels`` each, (B, S) int32.

    Yields:
        The rows in order; one without any label has no tokens.
    """
    for batch in batches:
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            counted = np.flatnonzero(labels != IGNORED_LABEL)
            end = int(counted[-1]) + 1 if len(counted) else 0
            yield TokenRow(ids[:end], labels[:end])


@dataclass(frozen=True)
class Turn:
    """An answer of a row and all that stands before it.

    Attributes:
        number: Of the row's answers, counted from 1.
        prompt: (tokens,) int32, up to the answer: questions and earlier answers as the data has them.
        answer: (tokens,) int32, trained tokens one after another.
    """

    number: int
    prompt: Ids
    answer: Ids


def turns_of(row: TokenRow, turns: Turns = "all") -> list[Turn]:
    """Return the answers of a row: each is a run of trained tokens.

    Args:
        row: A row without any has none.
        turns: All of them, the ``last`` or the ``first``.
    """
    counted = np.concatenate([[False], row.labels != IGNORED_LABEL, [False]])
    starts = np.flatnonzero(counted[1:] & ~counted[:-1])
    ends = np.flatnonzero(counted[:-1] & ~counted[1:])
    found = [
        Turn(number, row.ids[: start + 1], row.labels[start:end])
        for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True), 1)
    ]
    return {"all": found, "last": found[-1:], "first": found[:1]}[turns]
