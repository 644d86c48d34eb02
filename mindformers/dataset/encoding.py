"""Raw rows to training rows, in order and in constant memory, on one core or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mindformers.dataset.encode import (
    IGNORED_LABEL,
    EncodedRows,
    NothingToLearnError,
    Prompt,
    TooLongError,
    encode_conversations,
)
from mindformers.dataset.formats import conversation_or_error
from mindformers.dataset.messages import Conversation, OrderPolicy
from mindformers.dataset.mindrecord_rows import PackedRows, RowPacker
from mindformers.dataset.rows import RawRow, read_rows
from mindformers.dataset.tally import Tally
from mindformers.errors import DataError

MALFORMED, TOO_LONG, NOTHING_TO_LEARN = "malformed", "too long", "nothing to learn"
_CHUNK_ROWS, _CHUNK_TOKENS, _CHUNK_BYTES = 512, 2**19, 2**20

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
    """

    seq_length: int
    too_long: Literal["truncate", "drop", "error"] = "truncate"
    on_error: Literal["error", "skip"] = "error"
    order: OrderPolicy = "strict"


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
    """

    def __init__(self, tokenizer: Any, options: EncodeOptions) -> None:
        self.options = options
        self._tokenizer = tokenizer
        fills = (tokenizer.pad_token_id, IGNORED_LABEL)
        self._packer = RowPacker(options.seq_length, fills)

    def encode(self, rows: Rows) -> EncodedChunk:
        """Return the training rows of a few raw rows."""
        errors = [self._conversation(row) for row in rows]
        prompts = [
            Prompt(outcome.as_dict()["messages"], outcome.tools, outcome.where)
            for outcome in errors
            if isinstance(outcome, Conversation)
        ]
        encoded, refused = encode_conversations(
            self._tokenizer,
            prompts,
            self.options.seq_length,
            truncate=self.options.too_long == "truncate",
        )
        reasons = iter(refused)
        outcomes = [
            next(reasons) if isinstance(outcome, Conversation) else outcome for outcome in errors
        ]
        return self._chunk(encoded, outcomes)

    def pack(self, rows: Rows) -> PackedChunk:
        """Return the training rows of a few raw rows as records."""
        chunk = self.encode(rows)
        columns = (chunk.rows.input_ids, chunk.rows.labels)
        packed = self._packer.pack(columns, chunk.rows.num_tokens)
        return PackedChunk(packed, chunk.tally, chunk.error)

    def _conversation(self, row: RawRow | DataError) -> Conversation | DataError:
        if isinstance(row, DataError):
            return row
        return conversation_or_error(row, order=self.options.order)

    def _chunk(self, rows: EncodedRows, outcomes: Sequence[DataError | None]) -> EncodedChunk:
        """Count what became of the input rows, up to the first that ends the work."""
        tally, num_good, failure = Tally(), 0, None
        for outcome in outcomes:
            tally.rows_read += 1
            if outcome is None:
                num_good += 1
            elif self._is_fatal(outcome):
                failure = outcome
                break
            else:
                tally.drop(_reason(outcome), outcome)
        rows = rows.only(np.arange(len(rows)) < num_good)
        tally.tokens = int(rows.num_tokens.sum())
        tally.trained_tokens = int(rows.num_trained.sum())
        tally.truncated = int(np.count_nonzero(rows.num_cut))
        tally.cut_tokens = int(rows.num_cut.sum())
        return EncodedChunk(rows, tally, failure)

    def _is_fatal(self, error: DataError) -> bool:
        return {
            MALFORMED: self.options.on_error == "error",
            TOO_LONG: self.options.too_long == "error",
            NOTHING_TO_LEARN: False,
        }[_reason(error)]


def _reason(error: DataError) -> str:
    if isinstance(error, TooLongError):
        return TOO_LONG
    return NOTHING_TO_LEARN if isinstance(error, NothingToLearnError) else MALFORMED


def read_chunks(
    files: Sequence[Path],
    seq_length: int,
    *,
    repeat: int = 1,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Rows]:
    """Yield the raw rows of files in pieces that are worth a worker's while.

    Args:
        files: Data files of any known form.
        seq_length: Length of the rows to be made (tokens); long ones make small pieces.
        repeat: How often the files are gone through.
        on_bytes: Called with numbers of bytes read.

    Raises:
        DataError: If a file cannot be read.
    """
    rows = (row for _ in range(repeat) for file in files for row in read_rows(file, on_bytes))
    num_rows = rows_of_chunk(seq_length)
    chunk: list[RawRow | DataError] = []
    size = 0
    for row in rows:
        chunk.append(row)
        if isinstance(row, RawRow) and isinstance(row.data, bytes):
            size += len(row.data)
        if len(chunk) >= num_rows or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def encoded_samples(
    files: Sequence[Path], tokenizer: Any, options: EncodeOptions
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ``input_ids`` and ``labels`` of one training row after another, not filled up.

    Raises:
        DataError: If a file cannot be read, or a row ends the work.
    """
    encoder = RowEncoder(tokenizer, options)
    for chunk in map(encoder.encode, read_chunks(files, options.seq_length)):
        seams = np.cumsum(chunk.rows.num_tokens)[:-1]
        columns = (np.split(chunk.rows.input_ids, seams), np.split(chunk.rows.labels, seams))
        yield from islice(zip(*columns, strict=True), len(chunk.rows))
        if chunk.error is not None:
            raise chunk.error


def encode_files(
    files: Sequence[Path],
    tokenizer: Any,
    options: EncodeOptions,
    *,
    num_workers: int = 1,
    repeat: int = 1,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[PackedChunk]:
    """Yield the training rows of files, chunk by chunk in the order of the input.

    The bytes of a chunk's rows are valid until the next chunk is asked for.

    Args:
        files: Data files of any known form.
        tokenizer: Renders and encodes.
        options: How rows are made.
        num_workers: Processes that encode; 1 encodes in this one.
        repeat: How often the files are gone through.
        on_bytes: Called with numbers of bytes read.

    Raises:
        DataError: If a file cannot be read, a row ends the work, or a worker dies or hangs.
    """
    chunks = read_chunks(files, options.seq_length, repeat=repeat, on_bytes=on_bytes)
    encoder = RowEncoder(tokenizer, options)
    if num_workers == 1:
        packed: Iterator[PackedChunk] = map(encoder.pack, chunks)
    else:
        # Loaded here: a small data set needs neither processes nor what they are made with.
        from mindformers.dataset.workers import pack_in_workers

        packed = pack_in_workers(chunks, encoder, num_workers)
    for chunk in packed:
        yield chunk
        if chunk.error is not None:
            raise chunk.error
