"""How much of a text another one has: BLEU and ROUGE of words that are cut already."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Words = Sequence[str]
_ORDERS = (1, 2, 3, 4)


def sentence_bleu(answer: Words, reference: Words) -> float:
    """Return BLEU-4 of one sentence, 0 to 1; an order without any match counts half of the one before.

    Source: nltk ``sentence_bleu`` with ``SmoothingFunction().method3``, which upstream's metric calls
    (NIST's geometric sequence, mteval-v13a).
    """
    logs, halvings = 0.0, 0
    for order in _ORDERS:
        found, wanted = ngrams(answer, order), ngrams(reference, order)
        matches = (found & wanted).total()
        if order == 1 and not matches:
            return 0.0
        count = max(1, found.total())
        if not matches:
            halvings += 1
        logs += math.log(matches / count if matches else 1 / (2**halvings * count))
    brevity = min(0.0, 1 - len(reference) / len(answer))
    return math.exp(brevity + logs / len(_ORDERS))


def rouge_n(answer: Words, reference: Words, order: int) -> float:
    """Return the F1 of the n-grams of two texts, each as often as it stands there; 0 to 1.

    Source: Lin 2004, ROUGE-N, as rouge-score computes it.
    """
    found, wanted = ngrams(answer, order), ngrams(reference, order)
    return f1((found & wanted).total(), found.total(), wanted.total())


def rouge_l(answer: Words, reference: Words) -> float:
    """Return the F1 of the longest common subsequence of two texts; 0 to 1.

    Source: Lin 2004, ROUGE-L of a sentence, as rouge-score computes it.
    """
    return f1(_common_length(answer, reference), len(answer), len(reference))


def f1(common: float, found: int, wanted: int) -> float:
    """Return the harmonic mean of ``common / found`` and ``common / wanted``; 0 where one is empty."""
    return 2 * common / (found + wanted) if common else 0.0


def ngrams(words: Words, order: int) -> Counter[tuple[str, ...]]:
    """Return how often each run of ``order`` words stands in a text."""
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


def longest_common_run(first: Words, second: Words) -> int:
    """Return the length of the longest run of words that stands in both."""
    longest, row = 0, [0] * (len(second) + 1)
    for word in first:
        row = [0, *(row[i] + 1 if word == other else 0 for i, other in enumerate(second))]
        longest = max(longest, *row)
    return longest


def _common_length(first: Words, second: Words) -> int:
    row = [0] * (len(second) + 1)
    for word in first:
        above, row = row, [0]
        for i, other in enumerate(second):
            row.append(above[i] + 1 if word == other else max(above[i + 1], row[i]))
    return row[-1]
