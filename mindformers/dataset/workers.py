"""Encode rows in several processes; what they make comes back through memory that they share."""

from __future__ import annotations

import mmap
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import NamedTuple

from mindformers.dataset.mindrecord_rows import record_bytes
from mindformers.dataset.row_encoder import PackedChunk, RowEncoder, Rows, rows_of_chunk
from mindformers.errors import DataError

WORKER_TIMEOUT = 300.0  # seconds for one chunk; it takes a fraction of one


class _Slots:
    """Memory that forked processes share with their parent, a slot for each chunk on its way."""

    def __init__(self, count: int, slot_bytes: int) -> None:
        self.count, self._slot_bytes = count, slot_bytes
        self._memory = memoryview(mmap.mmap(-1, count * slot_bytes))

    def __getitem__(self, number: int) -> memoryview:
        """Return the slot of the chunk with this number."""
        start = number % self.count * self._slot_bytes
        return self._memory[start : start + self._slot_bytes]


class _Answer(NamedTuple):
    """What a worker made of a chunk; ``size`` bytes of its rows lie in the slot, or None: all is in the chunk."""

    chunk: PackedChunk
    size: int | None


class _Job(NamedTuple):
    number: int
    rows: Rows
    answer: Future[_Answer]


def pack_in_workers(
    chunks: Iterable[Rows], encoder: RowEncoder, num_workers: int
) -> Iterator[PackedChunk]:
    """Yield what ``encoder.pack`` makes of each chunk, in order.

    The bytes of a chunk's rows are valid until the next chunk is asked for.

    Raises:
        DataError: If a worker dies or hangs.
    """
    # Forked workers share the tokenizer's memory. Others get a copy and answer through a pipe alone.
    is_forked = "fork" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if is_forked else None)
    seq_length = encoder.options.seq_length
    slot_bytes = rows_of_chunk(seq_length) * record_bytes(seq_length, 4)
    slots = _Slots(2 * num_workers + 1, slot_bytes) if is_forked else None
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_start_worker, initargs=(encoder, slots)
    )
    pending: deque[_Job] = deque()
    try:
        for number, chunk in enumerate(chunks):
            pending.append(_Job(number, chunk, pool.submit(_pack, number, chunk)))
            if len(pending) > 2 * num_workers:
                yield _result(pending.popleft(), slots)
        while pending:
            yield _result(pending.popleft(), slots)
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()  # one that hangs would be waited for
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(job: _Job, slots: _Slots | None) -> PackedChunk:
    where = job.rows[0].where
    try:
        chunk, size = job.answer.result(timeout=WORKER_TIMEOUT)
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
    if slots is None or size is None:
        return chunk
    return replace(chunk, rows=replace(chunk.rows, data=slots[job.number][:size]))


class _Worker(NamedTuple):
    encoder: RowEncoder
    slots: _Slots | None


_worker: list[_Worker] = []  # what this process was started with


def _start_worker(encoder: RowEncoder, slots: _Slots | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _worker[:] = [_Worker(encoder, slots)]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _pack(number: int, rows: Rows) -> _Answer:
    encoder, slots = _worker[0]
    chunk = encoder.pack(rows)
    size = len(chunk.rows.data)
    if slots is None or size > len(
        slots[number]
    ):  # conversations may have become several rows each
        return _Answer(chunk, None)
    slots[number][:size] = chunk.rows.data
    return _Answer(replace(chunk, rows=replace(chunk.rows, data=b"")), size)
