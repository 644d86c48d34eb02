"""Batches for training from stored rows of any length: filled up, or several documents a row.

As in ``pipeline``, every order is drawn from (seed, epoch) alone, so a position is enough to go on from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mindformers.config.columns import COLUMNS, IGNORED_LABEL, STARTS_COLUMN
from mindformers.dataset.packing import Packs, pack_documents
from mindformers.dataset.pipeline import ReadOptions
from mindformers.dataset.row_store import RowStore
from mindformers.dataset.sharing import own_rows, own_tokens
from mindformers.errors import DataError
from mindformers.logger import logger


@dataclass(frozen=True)
class RowForm:
    """What rows of a batch look like.

    Attributes:
        seq_length: Tokens of a row.
        pad_token_id: What fills it up.
        is_packed: Several documents a row; the batches then have ``document_starts``.
    """

    seq_length: int
    pad_token_id: int = 0
    is_packed: bool = False


class TokenDataset:
    """The rows of a store as batches of NumPy arrays.

    Args:
        store: The rows, none longer than ``form.seq_length``.
        form: What becomes of a row.
        options: Batch size and order.

    Attributes:
        batch_size: Rows of a batch.
        seq_length: Tokens of a row.
        num_rows: Rows of an epoch.
        fingerprint: Changes when the rows or the way they are packed do.

    Raises:
        DataError: If there are fewer rows than a batch, or a document is longer than a row.
    """

    def __init__(self, store: RowStore, form: RowForm, options: ReadOptions | None = None) -> None:
        self._store, self._form = store, form
        self._options = options or ReadOptions()
        self.batch_size, self.seq_length = self._options.batch_size, form.seq_length
        self._check_lengths()
        self._packs = self._pack() if form.is_packed else None
        documents = min(len(store), self._options.num_samples or len(store))
        self.num_rows = self._packs.num_rows if self._packs else documents
        self.fingerprint = self._fingerprint()
        if self._options.drop_remainder and self.num_rows < self.batch_size:
            raise DataError(
                f"{self.num_rows} rows make no batch of {self.batch_size}",
                where="the training data",
                fix="lower runner_config.batch_size, or set drop_remainder to False",
            )

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        if self._options.drop_remainder:
            return self.num_rows // self.batch_size
        return -(-self.num_rows // self.batch_size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Yield the batches of an epoch.

        Args:
            epoch: Which one, from 0.
            start: Batches to leave out at the beginning; they are not read.

        Yields:
            ``input_ids`` and ``labels``, and of packed rows ``document_starts``, each (batch_size,
            seq_length) int32, or this process's part of these rows and tokens.
        """
        layout = self._options.layout
        order = self._order(epoch)[start * self.batch_size : len(self) * self.batch_size]
        own, count = own_rows(order, self.batch_size, layout), self.batch_size // layout.data
        for begin in range(0, len(own), count):
            yield own_tokens(self._batch(own[begin : begin + count]), layout)

    def _order(self, epoch: int) -> np.ndarray:
        if not self._options.shuffle:
            return np.arange(self.num_rows)
        return np.random.default_rng([self._options.seed, epoch]).permutation(self.num_rows)

    def _batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        if self._packs is None:
            lengths = self._store.lengths
            return self._filled([[int(row)] for row in rows], lengths)
        packed = [self._packs.row(int(row)) for row in rows]
        return self._filled(packed, self._store.useful, has_starts=True)

    def _filled(
        self, rows: Sequence[Iterable[int]], lengths: np.ndarray, has_starts: bool = False
    ) -> dict[str, np.ndarray]:
        """Return rows that hold the documents of each entry one after another, then filling."""
        shape = (len(rows), self.seq_length)
        ids = np.full(shape, self._form.pad_token_id, np.int32)
        labels = np.full(shape, IGNORED_LABEL, np.int32)
        # A token of the filling is a document of its own: nothing attends to it, and it costs next to nothing.
        starts = np.tile(np.arange(self.seq_length, dtype=np.int32), (len(rows), 1))
        for row, documents in enumerate(rows):
            end = 0
            for document in documents:
                begin, end = end, end + int(lengths[document])
                found = self._store.row(document, end - begin)
                ids[row, begin:end], labels[row, begin:end] = found
                starts[row, begin:end] = begin
        batch = dict(zip(COLUMNS, (ids, labels), strict=True))
        return {**batch, STARTS_COLUMN: starts} if has_starts else batch

    def _pack(self) -> Packs:
        """Pack the documents in an order of the seed's, the same in every epoch."""
        count = min(len(self._store), self._options.num_samples or len(self._store))
        order = np.arange(count)
        if self._options.shuffle:
            order = np.random.default_rng(self._options.seed).permutation(count)
        useful = self._store.useful
        packs = pack_documents(useful, self.seq_length, order)
        empty = int(np.count_nonzero(useful[:count] == 0))
        behind = int((self._store.lengths - useful)[:count].sum())
        logger.info(
            "packing: %d documents in %d rows of %d tokens, %.1f %% filled (%.1f %% without packing); "
            "left out: %d documents without a label, %d tokens behind the last label",
            len(packs.documents), packs.num_rows, self.seq_length, 100 * packs.fill,
            100 * packs.num_tokens / max(1, len(packs.documents) * self.seq_length), empty, behind,
        )  # fmt: skip
        return packs

    def _check_lengths(self) -> None:
        longest = int(self._store.lengths.max())
        if longest > self.seq_length:
            raise DataError(
                f"a row has {longest} tokens",
                where="the training data",
                allowed=f"at most {self.seq_length}",
                fix="raise train_dataset.max_seq_length, or make the data with shorter rows",
            )

    def _fingerprint(self) -> str:
        if self._packs is None:
            return self._store.fingerprint
        edges = hashlib.sha256(self._packs.documents.tobytes() + self._packs.edges.tobytes())
        return hashlib.sha256(f"{self._store.fingerprint} {edges.hexdigest()}".encode()).hexdigest()
