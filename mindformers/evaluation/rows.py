"""``TokenRow``: some tokens and what is asked of them; where a row's first answer begins.

Letters: S tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mindformers.config.columns import IGNORED_LABEL

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


def split_at_answer(row: TokenRow) -> tuple[Ids, Ids] | None:
    """Cut a row at its first trained token.

    Returns:
        The prompt and the answer that follows it, up to the first token that is not trained; None for a
        row without an answer.
    """
    counted = row.labels != IGNORED_LABEL
    if not counted.any():
        return None
    first = int(np.argmax(counted))
    rest = np.flatnonzero(~counted[first:])
    end = first + int(rest[0]) if len(rest) else len(counted)
    return row.ids[: first + 1], row.labels[first:end]
