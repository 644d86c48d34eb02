"""Batches for training from MindRecord files, in an order that follows from seed and epoch alone.

The order is a permutation drawn from (seed, epoch) and handed to MindDataset's reader, so a
run that begins in the middle of an epoch reads no row it does not need.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path

import numpy as np

from mindformers.checkpoint.step_format import file_sha256
from mindformers.config.columns import COLUMNS, IGNORED_LABEL, STARTS_COLUMN
from mindformers.dataset.mindrecord_check import (
    check_files,
    check_length,
    check_vocabulary,
    find_files,
)
from mindformers.dataset.sharing import own_rows, own_tokens
from mindformers.errors import DataError
from mindformers.machine import usable_cpus
from mindformers.parallel.layout import Layout

_NUM_PROBED_ROWS = 2048
_Row = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ReadOptions:
    """How rows become batches.

    Attributes:
        batch_size: Rows of a batch.
        shuffle: A new order in every epoch.
        seed: What the orders are drawn from.
        drop_remainder: Leave out the last batch when it is not full.
        num_samples: Rows to use, from the first on; None: all.
        num_parallel_workers: Threads that read; never more than there are cores.
        layout: How processes share a batch: each has some rows, and of these a part of the tokens.
        eod_token_id: Ends a document where rows hold several; None: a row is one.
    """

    batch_size: int = 1
    shuffle: bool = False
    seed: int = 0
    drop_remainder: bool = True
    num_samples: int | None = None
    num_parallel_workers: int = 1
    layout: Layout = field(default_factory=Layout)
    eod_token_id: int | None = None

    def num_batches(self, num_rows: int) -> int:
        """Return the batches that so many rows make."""
        return (
            num_rows // self.batch_size if self.drop_remainder else -(-num_rows // self.batch_size)
        )

    def check_count(self, num_rows: int, where: str) -> None:
        """Raise a DataError where there are no rows, or fewer than a batch; ``where`` names them."""
        if not num_rows:
            raise DataError("the data set has no rows", where=where)
        if not self.num_batches(num_rows):
            raise DataError(
                f"{num_rows} rows make no batch of {self.batch_size}",
                where=where,
                fix="lower runner_config.batch_size, or set drop_remainder to False",
            )


class TrainDataset:
    """The rows of MindRecord files as batches of NumPy arrays.

    Args:
        source: A data file, a folder of them, or a list of files.
        options: Batch size and order.
        seq_length: The model's row length (tokens); None: that of the files.
        vocab_size: Rows of the model's embedding; None: ids are not checked.

    Attributes:
        batch_size: Rows of a batch.
        seq_length: Tokens of a row.
        num_rows: Rows of an epoch.
        fingerprint: Changes when a file's name, size or content does (sha256, hex).

    Raises:
        DataError: If the files are missing, damaged or do not fit the model, or hold fewer rows
            than a batch.
    """

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        options: ReadOptions | None = None,
        *,
        seq_length: int | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self._options = options or ReadOptions()
        self._vocab_size = vocab_size
        files = find_files(source)
        checked = check_files(files, seq_length=seq_length, vocab_size=vocab_size)
        self.files: list[Path] = files
        self._first_rows = [0, *accumulate(file.num_rows for file in checked)]
        self.batch_size = self._options.batch_size
        self.num_rows = min(self._first_rows[-1], self._options.num_samples or self._first_rows[-1])
        self._options.check_count(self.num_rows, str(files[0]))
        self.seq_length = seq_length or self._first_length()
        self._probe([bool(file.facts) for file in checked])
        self.fingerprint = _fingerprint(files)

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return self._options.num_batches(self.num_rows)

    def batches(self, epoch: int, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Yield the batches of an epoch.

        Args:
            epoch: Which one, from 0.
            start: Batches to leave out at the beginning; they are not read.

        Yields:
            ``input_ids`` and ``labels``, each (batch_size, seq_length) int32, or this process's part of
            these rows and tokens; labels are shifted and -100 where nothing is learnt. Where rows hold
            several documents, ``document_starts`` too: where in its row each token's begins.

        Raises:
            DataError: If a row cannot be read, has another length or an id beyond the vocabulary.
        """
        order = self._order(epoch)[start * self.batch_size : len(self) * self.batch_size]
        layout = self._options.layout
        own = own_rows(order, self.batch_size, layout)
        for batch in self._read(own, self.batch_size // layout.data):
            if self._options.eod_token_id is not None:
                batch[STARTS_COLUMN] = starts_behind(batch["input_ids"], self._options.eod_token_id)
            yield own_tokens(batch, layout)

    def _order(self, epoch: int) -> np.ndarray:
        if not self._options.shuffle:
            return np.arange(self.num_rows)
        return np.random.default_rng([self._options.seed, epoch]).permutation(self.num_rows)

    def _read(self, order: np.ndarray, count: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield checked batches of ``count`` of the rows whose numbers ``order`` holds."""
        with closing(self._read_raw(order)) as rows:
            for begin in range(0, len(order), count):
                indexes = order[begin : begin + count]
                columns = zip(*islice(rows, len(indexes)), strict=True)
                yield {
                    name: self._stack(name, column, indexes)
                    for name, column in zip(COLUMNS, columns, strict=True)
                }

    def _stack(self, name: str, rows: Sequence[np.ndarray], indexes: np.ndarray) -> np.ndarray:
        for row, index in zip(rows, indexes, strict=True):
            if len(row) != self.seq_length:
                check_length(len(row), self.seq_length, self._place(index))
        values = np.stack(rows)
        if self._vocab_size is not None and values.size:
            lowest = np.where(values == IGNORED_LABEL, 0, values) if name == "labels" else values
            if lowest.min() < 0 or values.max() >= self._vocab_size:
                self._refuse(name, lowest, indexes)
        return values.astype(np.int32, copy=False)

    def _refuse(self, name: str, values: np.ndarray, indexes: np.ndarray) -> None:
        """Raise the error of the first row that holds an id beyond the vocabulary."""
        for row, index in zip(values, indexes, strict=True):
            if row.min() < 0:
                raise DataError(f"{name} holds {row.min()}", where=str(self._place(index)))
            check_vocabulary(int(row.max()), self._vocab_size or 0, self._place(index))

    def _read_raw(self, order: np.ndarray) -> Generator[_Row, None, None]:
        import mindspore.dataset as mds

        # A list of names: given one name, MindDataset reads the sibling partitions as well.
        dataset = mds.MindDataset(
            [str(file) for file in self.files],
            columns_list=list(COLUMNS),
            sampler=mds.SubsetSampler(order.tolist()),
            num_parallel_workers=min(self._options.num_parallel_workers, usable_cpus()),
        )
        iterator = dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)
        try:
            for row in iterator:
                yield row[0], row[1]
        except RuntimeError as error:
            raise DataError(
                f"MindSpore cannot read the rows: {_first_error(error)}",
                where=str(self.files[0].parent),
                fix="copy the files again, or make the data set again with glm4_preprocess.py",
            ) from error
        finally:
            iterator.stop()

    def _place(self, index: int) -> Path:
        """Return ``file:row`` of a row's number, for messages."""
        file = bisect_right(self._first_rows, index) - 1
        return Path(f"{self.files[file]}:{index - self._first_rows[file] + 1}")

    def _first_length(self) -> int:
        with closing(self._read_raw(np.zeros(1, dtype=np.int64))) as rows:
            return len(next(rows)[0])

    def _probe(self, has_facts: Sequence[bool]) -> None:
        """Read rows of files whose writer left no notes, spread evenly, before the first step."""
        own = [
            np.arange(first, min(end, self.num_rows))
            for first, end, noted in zip(
                self._first_rows[:-1], self._first_rows[1:], has_facts, strict=True
            )
            if not noted
        ]
        unknown = np.concatenate([np.empty(0, dtype=np.int64), *own])
        if len(unknown):
            step = -(-len(unknown) // _NUM_PROBED_ROWS)
            for _ in self._read(unknown[::step], self.batch_size):
                pass


def starts_behind(ids: np.ndarray, eod_token_id: int) -> np.ndarray:
    """Return where the document of each token begins, (rows, tokens) int32; it ends with ``eod_token_id``."""
    is_first = np.roll(ids == eod_token_id, 1, axis=1)
    places = np.arange(ids.shape[1], dtype=np.int32)
    return np.maximum.accumulate(np.where(is_first & (places > 0), places, 0), axis=1)


def _first_error(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    marked = [line.removeprefix("[ERROR]").strip() for line in lines if line.startswith("[ERROR]")]
    return (marked or lines or ["no reason given"])[0]


def _fingerprint(files: Sequence[Path]) -> str:
    lines = [f"{file.name} {file.stat().st_size} {file_sha256(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()
