"""Text and conversations as rows of ids, to calibrate with and to measure on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mindformers.config.data import IGNORED_LABEL
from mindformers.dataset.encode import encode_conversation
from mindformers.dataset.formats import read_conversations
from mindformers.errors import DataError
from mindformers.evaluation.rows import TokenRow

ROWS_OF_DATA = (".json", ".jsonl")
TEXT = (".txt", ".md")


def token_rows(
    path: str | Path, tokenizer: Any, length: int, most: int | None = None
) -> list[TokenRow]:
    """Return the rows of a file.

    Args:
        path: UTF-8 text, cut into rows of ``length``; or ``.json`` and ``.jsonl`` in a form the data
            tools read (alpaca, ShareGPT, messages), a row for each conversation, of which the answers
            count.
        tokenizer: The model's.
        length: Most ids of a row.
        most: Most rows; None: all.

    Raises:
        DataError: If the file cannot be read or holds nothing.
    """
    path = Path(path)
    is_data = path.suffix in ROWS_OF_DATA
    found = (_conversations if is_data else _pieces)(path, tokenizer, length)
    rows = list(islice(found, most))
    if not rows:
        raise DataError("holds no text", where=str(path))
    return rows


def _conversations(path: Path, tokenizer: Any, length: int) -> Iterator[TokenRow]:
    for conversation in read_conversations(path):
        if isinstance(conversation, DataError):
            raise conversation
        messages = [message.as_dict() for message in conversation.messages]
        sample = encode_conversation(
            tokenizer, messages, length,
            tools=conversation.tools, where=conversation.where, text=conversation.text,
        )  # fmt: skip
        yield TokenRow(sample.input_ids[: sample.num_tokens], sample.labels[: sample.num_tokens])


def _pieces(path: Path, tokenizer: Any, length: int) -> Iterator[TokenRow]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as UTF-8 text ({error})", where=str(path)) from error
    prefix = list(tokenizer("")["input_ids"])
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    step = length - len(prefix)
    for first in range(0, len(ids), step):
        row = np.array([*prefix, *ids[first : first + step]], np.int32)
        if len(row) > 1:
            yield TokenRow(row, np.append(row[1:], np.int32(IGNORED_LABEL)))
