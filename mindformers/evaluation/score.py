"""``TokenScore``: how well a model foresees tokens, as sums that can be added.

Sums, never means of batches: a batch of one trained token must not weigh as much as one of a thousand.
Letters: R tokens that count, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LARGEST = 709.0  # e to more than this is no float64


@dataclass(frozen=True)
class TokenScore:
    """Sums over the tokens that count.

    Attributes:
        loss: Sum of the negative log likelihoods (nats).
        tokens: How many tokens count.
        correct: How many of them are the likeliest of the vocabulary.
    """

    loss: float = 0.0
    tokens: int = 0
    correct: int = 0

    @property
    def mean_loss(self) -> float:
        """Loss of a token (nats); NaN where none counts."""
        return self.loss / self.tokens if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        """E to the loss of a token."""
        mean = self.mean_loss
        return math.inf if mean > _LARGEST else math.exp(mean)

    @property
    def accuracy(self) -> float:
        """Share of the tokens that are the likeliest, 0 to 1; NaN where none counts."""
        return self.correct / self.tokens if self.tokens else math.nan


def total(scores: Iterable[TokenScore]) -> TokenScore:
    """Return the sums of several scores; the order does not matter."""
    found = list(scores)
    return TokenScore(
        math.fsum(each.loss for each in found),
        sum(each.tokens for each in found),
        sum(each.correct for each in found),
    )


def score_logits(logits: NDArray[np.float32], labels: NDArray[np.int32]) -> TokenScore:
    """Return the score of tokens whose logits are known.

    Args:
        logits: (R, V) float32; overwritten.
        labels: (R,) int32, the tokens that came.
    """
    if not len(labels):
        return TokenScore()
    correct = int(np.count_nonzero(logits.argmax(axis=1) == labels))
    logits -= logits.max(axis=1, keepdims=True)
    picked = logits[np.arange(len(labels)), labels].astype(np.float64)
    sums = np.exp(logits, out=logits).sum(axis=1, dtype=np.float64)
    return TokenScore(float((np.log(sums) - picked).sum()), len(labels), correct)
