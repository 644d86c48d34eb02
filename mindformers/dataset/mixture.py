"""Rows of several sources in given shares: which rows an epoch has, and in what order. Loads no MindSpore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_DRAW = 1  # tells the draws within a source from those of the order of an epoch


@dataclass(frozen=True)
class Mixture:
    """Sources, and how much of an epoch each one is; all of it follows from seed and epoch.

    A source goes on in an epoch where it ended in the one before; when all its rows were seen, it begins
    again in another order.

    Attributes:
        sizes: Rows of each source; they are numbered one source after another.
        weights: Share of each source, in any unit.
        num_rows: Rows of an epoch.
        seed: What is drawn from.
        shuffle: Rows in a drawn order; without it each source goes from its first row on.
    """

    sizes: Sequence[int]
    weights: Sequence[float]
    num_rows: int
    seed: int = 0
    shuffle: bool = False

    @property
    def counts(self) -> np.ndarray:
        """Rows of each source in an epoch: its share, to whole rows by the largest remainders."""
        shares = np.array(self.weights) / np.sum(self.weights) * self.num_rows
        whole = np.floor(shares).astype(np.int64)
        missing = self.num_rows - int(whole.sum())
        whole[np.argsort(whole - shares, kind="stable")[:missing]] += 1
        return whole

    def rows(self, epoch: int) -> np.ndarray:
        """Return the numbers of an epoch's rows in order, (num_rows,)."""
        counts = self.counts
        first = np.concatenate([[0], np.cumsum(self.sizes)])
        parts = [
            first[source] + self._part(source, epoch * count, int(count))
            for source, count in enumerate(counts)
        ]
        chosen = np.concatenate(parts)
        if self.shuffle:
            return chosen[np.random.default_rng([self.seed, epoch]).permutation(self.num_rows)]
        # Without a draw the sources take turns, each as often as its share says.
        due = np.concatenate([(np.arange(count) + 0.5) / max(1, count) for count in counts])
        return chosen[np.argsort(due, kind="stable")]

    def _part(self, source: int, begin: int, count: int) -> np.ndarray:
        """Return ``count`` rows of a source that goes round without end, from place ``begin`` on."""
        size = self.sizes[source]
        places = np.arange(begin, begin + count)
        if not self.shuffle:
            return places % size
        found = np.empty(count, dtype=np.int64)
        for turn in np.unique(places // size):
            draw = np.random.default_rng([self.seed, _DRAW, source, int(turn)])
            is_here = places // size == turn
            found[is_here] = draw.permutation(size)[places[is_here] % size]
        return found
