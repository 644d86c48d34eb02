"""Raw rows to training rows, one chunk at a time: what a process that encodes does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from mindformers.config.columns import IGNORED_LABEL
from mindformers.dataset.encode import (
    NothingToLearnError,
    Prompt,
    TooLong,
    TooLongError,
    encode_conversations,
)
from mindformers.dataset.formats import Form, conversation_or_error
from mindformers.dataset.labels import EncodedRows, TrainOn
from mindformers.dataset.messages import Conversation, OrderPolicy
from mindformers.dataset.mindrecord_rows import PackedRows, RowPacker
from mindformers.dataset.rows import RawRow
from mindformers.dataset.tally import Tally
from mindformers.errors import DataError

MALFORMED, TOO_LONG, NOTHING_TO_LEARN = "malformed", "too long", "nothing to learn"
_CHUNK_ROWS, _CHUNK_TOKENS = 512, 2**19

Rows = Sequence[RawRow | DataError]


def rows_of_chunk(seq_length: int) -> int:
    """Return how many rows a chunk has at most."""
    return max(1, min(_CHUNK_ROWS, _CHUNK_TOKENS // seq_length))


@dataclass(frozen=True)
class EncodeOptions:
    """How rows are made.

    Attributes:
        seq_length: Length of a row (tokens).
        too_long: What to do with a longer conversation.
        on_error: Whether a malformed row ends the work or is left out.
        order: See ``parse_conversation``.
        no_label: What to do with a row of which nothing is learnt.
        train_on: Whether all of an assistant's turns are learnt, or the last one.
        format: The form of the rows; ``auto``: told by the keys of each.
    """

    seq_length: int
    too_long: TooLong = "truncate"
    on_error: Literal["error", "skip"] = "error"
    order: OrderPolicy = "strict"
    no_label: Literal["drop", "error", "keep"] = "drop"
    train_on: TrainOn = "all"
    format: Form = "auto"


class Packer(Protocol):
    """Makes of training rows what is written."""

    def pack(self, columns: Sequence[np.ndarray], lengths: np.ndarray) -> PackedRows:
        """Return the bytes of rows, given ids and labels of all and the tokens of each."""


@dataclass
class EncodedChunk:
    """Training rows of some input rows.

    Attributes:
        rows: Those that could be made.
        tally: What became of the input rows.
        error: What ends the work here; the rows before it are in the chunk.
    """

    rows: EncodedRows
    tally: Tally
    error: DataError | None = None


@dataclass
class PackedChunk:
    """The same, as a MindRecord file holds it; attributes as of ``EncodedChunk``."""

    rows: PackedRows
    tally: Tally
    error: DataError | None = None


class RowEncoder:
    """Turns raw rows into training rows.

    Args:
        tokenizer: Renders and encodes.
        options: How rows are made.
        packer: Makes the bytes of ``pack``; None: records of a MindRecord file.
    """

    def __init__(
        self, tokenizer: Any, options: EncodeOptions, packer: Packer | None = None
    ) -> None:
        self.options = options
        self._tokenizer = tokenizer
        fills = (tokenizer.pad_token_id, IGNORED_LABEL)
        self._packer = packer or RowPacker(options.seq_length, fills)

    def encode(self, rows: Rows) -> EncodedChunk:
        """Return the training rows of a few raw rows."""
        outcomes: list[DataError | None] = []
        prompts, places = [], []
        for place, row in enumerate(rows):
            found = self._conversation(row)
            if isinstance(found, Conversation):
                messages = [message.as_dict() for message in found.messages]
                prompts.append(Prompt(messages, found.tools, found.where, found.text))
                places.append(place)
            outcomes.append(found if isinstance(found, DataError) else None)
        options = self.options
        encoded, refused = encode_conversations(
            self._tokenizer,
            prompts,
            options.seq_length,
            too_long=options.too_long,
            train_on=options.train_on,
            keeps_unlearnt=options.no_label == "keep",
        )
        for place, reason in zip(places, refused, strict=True):
            outcomes[place] = reason
        sources = np.array(places, dtype=np.int64)[encoded.sources]
        return self._chunk(replace(encoded, sources=sources), outcomes)

    def pack(self, rows: Rows) -> PackedChunk:
        """Return the training rows of a few raw rows as records."""
        chunk = self.encode(rows)
        columns = (chunk.rows.input_ids, chunk.rows.labels)
        packed = self._packer.pack(columns, chunk.rows.num_tokens)
        return PackedChunk(packed, chunk.tally, chunk.error)

    def _conversation(self, row: RawRow | DataError) -> Conversation | DataError:
        if isinstance(row, DataError):
            return row
        return conversation_or_error(row, order=self.options.order, form=self.options.format)

    def _chunk(self, rows: EncodedRows, outcomes: Sequence[DataError | None]) -> EncodedChunk:
        """Count what became of the input rows, up to the first that ends the work."""
        tally, failure = Tally(), None
        for outcome in outcomes:
            tally.rows_read += 1
            if outcome is None:
                continue
            if self._is_fatal(outcome):
                failure = outcome
                rows = rows.only(rows.sources < tally.rows_read - 1)
                break
            tally.drop(_reason(outcome), outcome)
        tally.tokens = int(rows.num_tokens.sum())
        tally.trained_tokens = int(rows.num_trained.sum())
        tally.truncated = int(np.count_nonzero(rows.num_cut))
        tally.cut_tokens = int(rows.num_cut.sum())
        tally.unlearnt = int(np.count_nonzero(rows.num_trained == 0))
        tally.split = int(np.count_nonzero(np.bincount(rows.sources) > 1))
        return EncodedChunk(rows, tally, failure)

    def _is_fatal(self, error: DataError) -> bool:
        return {
            MALFORMED: self.options.on_error == "error",
            TOO_LONG: self.options.too_long == "error",
            NOTHING_TO_LEARN: self.options.no_label == "error",
        }[_reason(error)]


def _reason(error: DataError) -> str:
    if isinstance(error, TooLongError):
        return TOO_LONG
    return NOTHING_TO_LEARN if isinstance(error, NothingToLearnError) else MALFORMED
