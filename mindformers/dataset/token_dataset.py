"""Batches for training from stored rows of any length: rows are filled up, or hold several documents.

As in ``pipeline``, every order is drawn from (seed, epoch) alone, so a position is enough to go on from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mindformers.config.columns import COLUMNS, IGNORED_LABEL, STARTS_COLUMN
from mindformers.dataset.mixture import Mixture
from mindformers.dataset.packing import PackedPasses
from mindformers.dataset.pipeline import ReadOptions
from mindformers.dataset.row_store import JoinedRows
from mindformers.dataset.sharing import own_rows, own_tokens
from mindformers.errors import DataError
from mindformers.logger import logger

# Batches that are sorted by length together: enough for like lengths, few enough to mix.
_GROUPED_BATCHES = 50
_WHERE = "the training data"


@dataclass(frozen=True)
class RowForm:
    """What rows of a batch look like.

    Attributes:
        seq_length: Tokens of a row.
        pad_token_id: What fills it up.
        is_packed: Several documents a row; the batches then have ``document_starts``.
        divisor: Rows are filled up to the longest of their batch, rounded up to a multiple of this;
            None: to ``seq_length``.
        is_grouped: A batch has rows of like length.
    """

    seq_length: int
    pad_token_id: int = 0
    is_packed: bool = False
    divisor: int | None = None
    is_grouped: bool = False


class TokenDataset:
    """Stored rows as batches of NumPy arrays.

    Args:
        rows: The rows, none longer than ``form.seq_length``.
        form: What becomes of a row.
        options: Batch size and order.
        mixture: Which rows an epoch has, where they are of several sources; None: all of them.

    Attributes:
        batch_size: Rows of a batch.
        seq_length: Tokens of a row.
        num_rows: Rows of an epoch.
        fingerprint: Changes when the rows or the way they are packed do.

    Raises:
        DataError: If there are fewer rows than a batch, or a document is longer than a row.
    """

    def __init__(
        self,
        rows: JoinedRows,
        form: RowForm,
        options: ReadOptions | None = None,
        mixture: Mixture | None = None,
    ) -> None:
        self._rows, self._form, self._mixture = rows, form, mixture
        self._options = options or ReadOptions()
        self.batch_size, self.seq_length = self._options.batch_size, form.seq_length
        self._check_lengths()
        self._packs = self._pack() if form.is_packed else None
        documents = min(len(rows), self._options.num_samples or len(rows))
        self.num_rows = self._packs.num_rows if self._packs else documents
        self.fingerprint = self._fingerprint()
        self._options.check_count(self.num_rows, _WHERE)

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return self._options.num_batches(self.num_rows)

    def batches(self, epoch: int, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Yield the batches of an epoch.

        Args:
            epoch: Which one, from 0.
            start: Batches to leave out at the beginning; they are not read.

        Yields:
            ``input_ids`` and ``labels``, and of packed rows ``document_starts``, each (batch_size,
            seq_length) int32, or this process's part of these rows and tokens.
        """
        layout, size = self._options.layout, self.batch_size
        order = self._order(epoch)[: len(self) * size]
        packed = self._packs.rows(epoch) if self._packs else None
        for begin in range(start * size, len(order), size):
            batch = order[begin : begin + size]
            length = self._length_of(batch)
            own = own_rows(batch, len(batch), layout)
            rows = [[each] for each in own.tolist()] if packed is None else [packed[i] for i in own]
            yield own_tokens(self._filled(rows, length), layout)

    def _order(self, epoch: int) -> np.ndarray:
        if self._packs is not None:
            return self._drawn(epoch, self.num_rows)
        order = self._documents(epoch)
        return self._grouped(order, epoch) if self._form.is_grouped else order

    def _documents(self, epoch: int) -> np.ndarray:
        """Return the rows of the store that an epoch has, in order."""
        if self._mixture is not None:
            return self._mixture.rows(epoch)
        count = len(self._rows)
        return self._drawn(epoch, min(count, self._options.num_samples or count))

    def _drawn(self, epoch: int, count: int) -> np.ndarray:
        return self._draw(epoch).permutation(count) if self._options.shuffle else np.arange(count)

    def _draw(self, *path: int) -> np.random.Generator:
        return np.random.default_rng([self._options.seed, *path])

    def _grouped(self, order: np.ndarray, epoch: int) -> np.ndarray:
        """Return the order sorted by length within pieces of many batches, the batches in drawn order."""
        size = self.batch_size
        piece = size * _GROUPED_BATCHES
        lengths = self._rows.lengths
        parts = np.split(order, range(piece, len(order), piece))
        longest_first = [part[np.argsort(-lengths[part], kind="stable")] for part in parts]
        batches = np.concatenate(longest_first)
        whole = len(order) // size * size
        if not self._options.shuffle:
            return batches
        drawn = self._draw(epoch, _GROUPED_BATCHES).permutation(whole // size)
        return np.concatenate([batches[:whole].reshape(-1, size)[drawn].ravel(), batches[whole:]])

    def _length_of(self, batch: np.ndarray) -> int:
        """Return the tokens of the rows of a whole batch, of which this process may have a part."""
        if self._form.divisor is None or self._packs is not None:
            return self.seq_length
        longest, divisor = int(self._rows.lengths[batch].max()), self._form.divisor
        return min(self.seq_length, max(1, -(-longest // divisor)) * divisor)

    def _filled(self, rows: Sequence[Iterable[int]], length: int) -> dict[str, np.ndarray]:
        """Return rows that hold the documents of each entry one after another, then filling."""
        lengths = self._rows.lengths if self._packs is None else self._rows.useful
        shape = (len(rows), length)
        ids = np.full(shape, self._form.pad_token_id, np.int32)
        labels = np.full(shape, IGNORED_LABEL, np.int32)
        # A token of the filling is a document of its own: nothing attends to it, and it costs next to nothing.
        starts = np.tile(np.arange(length, dtype=np.int32), (len(rows), 1))
        for row, documents in enumerate(rows):
            end = 0
            for document in documents:
                begin, end = end, end + int(lengths[document])
                found = self._rows.row(document, end - begin)
                ids[row, begin:end], labels[row, begin:end] = found
                starts[row, begin:end] = begin
        batch = dict(zip(COLUMNS, (ids, labels), strict=True))
        return batch if self._packs is None else {**batch, STARTS_COLUMN: starts}

    def _pack(self) -> PackedPasses:
        """Pack the documents, and say what that fills."""
        useful = self._rows.useful
        packed = PackedPasses(
            useful, self.seq_length, self._documents,
            repeats=not self._options.shuffle and self._mixture is None,
        )  # fmt: skip
        packs, order = packed.first, self._documents(0)
        empty = int(np.count_nonzero(useful[order] == 0))
        behind = int((self._rows.lengths - useful)[order].sum())
        logger.info(
            "packing: %d documents in %d rows of %d tokens, %.1f %% filled (%.1f %% without packing); "
            "left out: %d documents without a label, %d tokens behind the last label",
            len(packs.documents), packs.num_rows, self.seq_length, 100 * packs.fill,
            100 * packs.num_tokens / max(1, len(packs.documents) * self.seq_length), empty, behind,
        )  # fmt: skip
        return packed

    def _check_lengths(self) -> None:
        longest = int(self._rows.lengths.max())
        if longest > self.seq_length:
            raise DataError(
                f"a row has {longest} tokens",
                where=_WHERE,
                allowed=f"at most {self.seq_length}",
                fix="raise train_dataset.max_seq_length, or make the data with shorter rows",
            )

    def _fingerprint(self) -> str:
        """Return a hash of the rows and of what makes an epoch of them; without either that of the rows."""
        facts = [self._rows.fingerprint]
        if self._mixture is not None:
            facts.append(f"mixture {self._mixture.counts.tolist()}")
        if self._packs is not None:
            first = self._packs.first
            edges = hashlib.sha256(first.documents.tobytes() + first.edges.tobytes())
            facts.append(f"packs {edges.hexdigest()}")
        if self._form.is_grouped:
            facts.append(f"grouped {self.batch_size}")
        return facts[0] if len(facts) == 1 else hashlib.sha256(" ".join(facts).encode()).hexdigest()
