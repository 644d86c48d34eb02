"""Raw rows to training rows, in order and in constant memory, on one core or several."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mindformers.dataset.encode import (
    NothingToLearnError,
    Sample,
    TooLongError,
    encode_conversation,
)
from mindformers.dataset.formats import conversation_or_error
from mindformers.dataset.messages import OrderPolicy
from mindformers.dataset.rows import RawRow, read_rows
from mindformers.errors import DataError
from mindformers.tools.dataset_preprocess.report import Tally

WORKER_TIMEOUT = 300.0  # seconds for one chunk; it takes a fraction of one
MALFORMED, TOO_LONG, NOTHING_TO_LEARN = "malformed", "too long", "nothing to learn"
_CHUNK_ROWS, _CHUNK_TOKENS, _CHUNK_BYTES = 64, 2**22, 2**20

Rows = Sequence[RawRow | DataError]


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
        input_ids: (rows, seq_length) int32.
        labels: (rows, seq_length) int32.
        lengths: Positions of each row that are not filling.
        tally: What became of the input rows.
        error: What ends the work here; the rows before it are in the chunk.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    lengths: list[int]
    tally: Tally = field(default_factory=Tally)
    error: DataError | None = None


def encode_rows(tokenizer: Any, rows: Rows, options: EncodeOptions) -> EncodedChunk:
    """Return the training rows of a few raw rows."""
    tally, samples, failure = Tally(), [], None
    for row in rows:
        tally.rows_read += 1
        outcome = _encode_row(tokenizer, row, options)
        if isinstance(outcome, Sample):
            samples.append(outcome)
            continue
        reason = _reason(outcome)
        is_fatal = {
            MALFORMED: options.on_error == "error",
            TOO_LONG: options.too_long == "error",
            NOTHING_TO_LEARN: False,
        }[reason]
        if is_fatal:
            failure = outcome
            break
        tally.drop(reason, outcome)
    for sample in samples:
        tally.tokens += sample.num_tokens
        tally.trained_tokens += sample.num_trained
        tally.truncated += sample.num_cut > 0
        tally.cut_tokens += sample.num_cut
    empty = np.empty((0, options.seq_length), dtype=np.int32)
    return EncodedChunk(
        np.stack([sample.input_ids for sample in samples]) if samples else empty,
        np.stack([sample.labels for sample in samples]) if samples else empty,
        [sample.num_tokens for sample in samples],
        tally,
        failure,
    )


def _encode_row(
    tokenizer: Any, row: RawRow | DataError, options: EncodeOptions
) -> Sample | DataError:
    conversation = (
        row if isinstance(row, DataError) else conversation_or_error(row, order=options.order)
    )
    if isinstance(conversation, DataError):
        return conversation
    try:
        return encode_conversation(
            tokenizer,
            conversation.as_dict()["messages"],
            options.seq_length,
            tools=conversation.tools,
            truncate=options.too_long == "truncate",
            where=conversation.where,
        )
    except DataError as error:
        return error


def _reason(error: DataError) -> str:
    if isinstance(error, TooLongError):
        return TOO_LONG
    return NOTHING_TO_LEARN if isinstance(error, NothingToLearnError) else MALFORMED


def encode_files(
    files: Sequence[Path],
    tokenizer: Any,
    options: EncodeOptions,
    *,
    num_workers: int = 1,
    repeat: int = 1,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[EncodedChunk]:
    """Yield the training rows of files, chunk by chunk in the order of the input.

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
    rows = (row for _ in range(repeat) for file in files for row in read_rows(file, on_bytes))
    chunks = _chunks(rows, max(1, min(_CHUNK_ROWS, _CHUNK_TOKENS // options.seq_length)))
    encoded = (
        map(partial(encode_rows, tokenizer, options=options), chunks)
        if num_workers == 1
        else _encode_in_workers(chunks, tokenizer, options, num_workers)
    )
    for chunk in encoded:
        yield chunk
        if chunk.error is not None:
            raise chunk.error


def _chunks(rows: Iterable[RawRow | DataError], num_rows: int) -> Iterator[Rows]:
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


def _encode_in_workers(
    chunks: Iterable[Rows], tokenizer: Any, options: EncodeOptions, num_workers: int
) -> Iterator[EncodedChunk]:
    # Forked workers share the tokenizer's memory; MindSpore is not loaded yet when they start.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_start_worker, initargs=(tokenizer, options)
    )
    pending: deque[tuple[Rows, Future[EncodedChunk]]] = deque()
    try:
        for chunk in chunks:
            pending.append((chunk, pool.submit(_encode_in_worker, chunk)))
            if len(pending) > 2 * num_workers:
                yield _result(*pending.popleft())
        while pending:
            yield _result(*pending.popleft())
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()  # one that hangs would be waited for
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(rows: Rows, future: Future[EncodedChunk]) -> EncodedChunk:
    where = rows[0].where
    try:
        return future.result(timeout=WORKER_TIMEOUT)
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died while it encoded the rows from here on",
            where=where,
            fix="check the free memory, or use --num_workers 1 to see the reason",
        ) from error
    except FutureTimeoutError as error:
        raise DataError(
            f"a worker process gave no answer for {WORKER_TIMEOUT:.0f} s on the rows from here on",
            where=where,
            fix="use --num_workers 1 to see where it hangs",
        ) from error


_worker: dict[str, Any] = {}


def _start_worker(tokenizer: Any, options: EncodeOptions) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _worker.update(tokenizer=tokenizer, options=options)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _encode_in_worker(rows: Rows) -> EncodedChunk:
    return encode_rows(_worker["tokenizer"], rows, _worker["options"])
