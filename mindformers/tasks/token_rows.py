"""Text and conversations as rows of ids, to calibrate with and to measure on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindformers.dataset.formats import read_conversations
from mindformers.errors import DataError

_ROWS_OF_DATA = (".json", ".jsonl")
_SHORTEST = 2  # ids: the first has none before it to be told from


def token_rows(
    path: str | Path, tokenizer: Any, length: int, most: int | None = None
) -> list[NDArray[np.int32]]:
    """Return the rows of a file.

    Args:
        path: UTF-8 text, cut into rows of ``length``; or ``.json`` and ``.jsonl`` in a form the data
            tools read (alpaca, ShareGPT, messages), a row for each conversation.
        tokenizer: The model's.
        length: Most ids of a row.
        most: Most rows; None: all.

    Raises:
        DataError: If the file cannot be read or holds nothing.
    """
    path = Path(path)
    is_data = path.suffix in _ROWS_OF_DATA
    found = _conversations(path, tokenizer) if is_data else _pieces(path, tokenizer, length)
    rows = [np.asarray(ids[:length], np.int32) for ids in islice(found, most)]
    rows = [row for row in rows if len(row) >= _SHORTEST]
    if not rows:
        raise DataError("holds no text", where=str(path))
    return rows


def _conversations(path: Path, tokenizer: Any) -> Iterator[list[int]]:
    for conversation in read_conversations(path):
        if isinstance(conversation, Exception):
            raise conversation
        row = conversation.as_dict()
        segments = tokenizer.render(row["messages"], tools=row.get("tools"))
        yield tokenizer.encode_segments(segments)


def _pieces(path: Path, tokenizer: Any, length: int) -> Iterator[list[int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as UTF-8 text ({error})", where=str(path)) from error
    prefix = list(tokenizer("")["input_ids"])
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    step = length - len(prefix)
    for first in range(0, len(ids), step):
        yield prefix + ids[first : first + step]
