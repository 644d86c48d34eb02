"""Files of conversations to training rows, in order and in constant memory, on one core or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mindformers.dataset.row_encoder import (
    EncodeOptions,
    PackedChunk,
    Packer,
    RowEncoder,
    Rows,
    rows_of_chunk,
)
from mindformers.dataset.rows import RawRow, read_rows
from mindformers.errors import DataError
from mindformers.machine import usable_cpus

_CHUNK_BYTES = 2**20
_SMALL_INPUT_BYTES = 2**21  # encoded in a quarter of a second


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


def worthwhile_workers(total_bytes: int, most: int | None = None) -> int:
    """Return how many processes to encode with: the CPUs it may use; for an input that is done sooner, this one."""
    if total_bytes < _SMALL_INPUT_BYTES:
        return 1
    cpus = usable_cpus()
    return min(cpus, most or cpus)


def encode_files(
    files: Sequence[Path],
    tokenizer: Any,
    options: EncodeOptions,
    *,
    num_workers: int = 1,
    repeat: int = 1,
    packer: Packer | None = None,
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
        packer: Makes the bytes of the rows; None: records of a MindRecord file.
        on_bytes: Called with numbers of bytes read.

    Raises:
        DataError: If a file cannot be read, a row ends the work, or a worker dies or hangs.
    """
    chunks = read_chunks(files, options.seq_length, repeat=repeat, on_bytes=on_bytes)
    encoder = RowEncoder(tokenizer, options, packer)
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
