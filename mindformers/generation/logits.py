"""What is done to a row of logits before a token is chosen: penalties, bans, temperature, cuts.

Plain functions on one row (V,) float32; they leave it alone and return what to use in its place.
``LogitsPipeline`` applies them in order. A token that may not be chosen has the value -inf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mindformers.errors import GenerationError
from mindformers.generation.array import Array

_BLOCK = 256  # logits per block of the coarse search for the k largest
_FIRST_TRY = 128  # tokens that usually hold top_p of the probability


class LogitsProcessor:
    """Base of a user's own rule: override ``process_np``. A function of that form will do too."""

    def __call__(self, logits: Array, sequence_ids: Array) -> Array:
        """Apply the rule; see ``process_np``."""
        return self.process_np(logits, sequence_ids)

    def process_np(self, logits: Array, sequence_ids: Array) -> Array:
        """Return the logits to use instead; this base changes nothing.

        Args:
            logits: (1, V) float32, the row's own copy: it may be changed in place.
            sequence_ids: (1, L) int32, prompt and answer so far, without padding.

        Returns:
            (1, V) float32.
        """
        return logits


class LogitsProcessorList(list[Callable[[Array, Array], Array]]):
    """Several rules, applied in order."""

    def __call__(self, logits: Array, sequence_ids: Array) -> Array:
        """Apply every rule; see ``LogitsProcessor.process_np``."""
        for processor in self:
            logits = run_processor(processor, logits, sequence_ids)
        return logits


def run_processor(processor: Callable[..., Any], logits: Array, sequence_ids: Array) -> Array:
    """Call one user rule and check what it returns.

    Raises:
        GenerationError: If the result is not an array of the same shape.
    """
    result = processor(logits, sequence_ids)
    result = result.asnumpy() if hasattr(result, "asnumpy") else result
    if not isinstance(result, np.ndarray) or result.shape != logits.shape:
        found = f"shape {result.shape}" if isinstance(result, np.ndarray) else repr(result)[:60]
        raise GenerationError(
            f"returned {found}",
            where=f"logits processor {type(processor).__name__}",
            allowed=f"an array of shape {logits.shape}",
        )
    return result.astype(np.float32, copy=False)


def check_processors(processors: Any) -> list[Callable[[Array, Array], Array]]:
    """Return user rules (None, one callable, or several) as a list.

    Raises:
        GenerationError: If one is a class instead of an instance, or cannot be called.
    """
    if processors is None:
        return []
    single = callable(processors) and not isinstance(processors, list)
    items: Iterable[Any] = [processors] if single else processors
    checked = []
    for item in items:
        if isinstance(item, type):
            raise GenerationError(
                f"{item.__name__} is a class",
                where="logits_processor",
                fix=f"pass an instance: {item.__name__}()",
            )
        if not callable(item):
            raise GenerationError(
                f"{item!r} cannot be called",
                where="logits_processor",
                allowed="LogitsProcessor instances or functions of (logits, sequence_ids)",
            )
        if hasattr(item, "process_ms") and not _is_overridden(item, "process_np"):
            raise GenerationError(
                f"{type(item).__name__} has process_ms only, but logits are NumPy arrays here",
                where="logits_processor",
                fix="override process_np(logits, sequence_ids)",
            )
        checked.append(item)
    return checked


def _is_overridden(item: Any, name: str) -> bool:
    return getattr(type(item), name, None) is not getattr(LogitsProcessor, name)


def penalize_repetition(logits: Array, ids: Array, penalty: float) -> Array:
    """Make the tokens of ``ids`` less likely: divide a positive logit, multiply a negative one.

    Args:
        logits: (V,) float32.
        ids: (L,) ids seen so far, padding excluded; repeats count once.
        penalty: Above 0; 1 changes nothing, below 1 favours repetition.

    Source: Keskar et al. 2019, CTRL, section 4.1.
    """
    result = logits.copy()
    seen = logits[ids]
    result[ids] = np.where(seen < 0, seen * np.float32(penalty), seen / np.float32(penalty))
    return result


def penalize_presence(logits: Array, ids: Array, presence: float, frequency: float) -> Array:
    """Make tokens that were given already less likely.

    Args:
        logits: (V,) float32.
        ids: (L,) ids of the answer so far, without the prompt.
        presence: Taken off the logit of each of them once.
        frequency: Taken off as often as it was given. Both: below 0 favours repetition.

    Source: OpenAI's API reference, presence_penalty and frequency_penalty.
    """
    result = logits.copy()
    seen, counts = np.unique(ids, return_counts=True)
    result[seen] -= (presence + frequency * counts).astype(np.float32)
    return result


class Bias:
    """What is added to the logits of some ids; those outside the vocabulary are ignored.

    Args:
        bias: By id.
        vocab_size: V.
    """

    def __init__(self, bias: Mapping[int, float], vocab_size: int) -> None:
        kept = {number: value for number, value in bias.items() if number < vocab_size}
        self._ids = np.array(list(kept), np.int64)
        self._values = np.array(list(kept.values()), np.float32)

    def __call__(self, logits: Array) -> Array:
        """Return the logits (V,) with it added."""
        result = logits.copy()
        result[self._ids] += self._values
        return result


class BadWords:
    """Sequences of ids that must not occur.

    Args:
        words: None empty; as many as there may be, a step looks at their lengths alone.
    """

    def __init__(self, words: Iterable[Sequence[int]]) -> None:
        self._lasts: dict[tuple[int, ...], list[int]] = {}
        for *beginning, last in words:
            self._lasts.setdefault(tuple(beginning), []).append(last)
        self._sizes = sorted({len(beginning) for beginning in self._lasts})

    def banned_after(self, ids: Array) -> list[int]:
        """Return the ids that would complete one of them after ``ids`` (L,)."""
        found: list[int] = []
        for size in self._sizes:
            if size <= len(ids):
                found += self._lasts.get(tuple(ids[len(ids) - size :].tolist()), ())
        return found


def forbid_ids(logits: Array, ids: Sequence[int]) -> Array:
    """Rule out the tokens of ``ids``; ids outside the vocabulary are ignored."""
    result = logits.copy()
    result[[number for number in ids if number < len(result)]] = -np.inf
    return result


def forbid_from(logits: Array, first: int) -> Array:
    """Rule out every id from ``first`` on: rows of the head that no token stands for."""
    result = logits.copy()
    result[first:] = -np.inf
    return result


def apply_temperature(logits: Array, temperature: float) -> Array:
    """Divide by ``temperature``, ``MIN_TEMPERATURE`` or above: sharper below 1, flatter above."""
    return logits / np.float32(temperature)


def normalize(logits: Array) -> Array:
    """Return log-probabilities, (V,) float32."""
    shifted = logits.astype(np.float64) - logits.max()
    return (shifted - np.log(np.exp(shifted).sum())).astype(np.float32)


def keep_top_k(logits: Array, top_k: int) -> Array:
    """Keep exactly the ``top_k`` largest (the lower id of equals); 0 or V and above keeps all."""
    if top_k <= 0 or top_k >= len(logits):
        return logits
    threshold = kth_largest(logits, top_k)
    kept = np.flatnonzero(logits > threshold)
    equal = np.flatnonzero(logits == threshold)[: top_k - len(kept)]
    return _only(logits, np.concatenate((kept, equal)))


def keep_top_p(logits: Array, top_p: float) -> Array:
    """Keep the likeliest tokens up to and with the one that brings their probability to ``top_p``.

    Args:
        logits: (V,) float32; -inf where ruled out.
        top_p: 0 keeps the single likeliest token, 1 keeps all.
    """
    if top_p >= 1:
        return logits
    ids = np.flatnonzero(logits > -np.inf)
    values = logits[ids].astype(np.float64)
    weights = np.exp(values - values.max())
    target = top_p * weights.sum()
    tried = _FIRST_TRY
    while True:
        # Only the likeliest few are sorted; a flat distribution asks for more.
        head = ids if tried >= len(ids) else ids[values >= kth_largest(values, tried)]
        order = head[np.argsort(-logits[head], kind="stable")]
        mass = np.cumsum(np.exp(logits[order].astype(np.float64) - values.max()))
        if mass[-1] >= target or len(head) == len(ids):
            break
        tried *= 16
    return _only(logits, order[: int(np.searchsorted(mass, target)) + 1])


def keep_min_p(logits: Array, min_p: float) -> Array:
    """Keep the tokens at least ``min_p`` times as likely as the likeliest one; 0 keeps all.

    Source: Nguyen et al. 2024, Turning Up the Heat: Min-p Sampling.
    """
    if min_p <= 0:
        return logits
    return np.where(logits >= logits.max() + np.float32(np.log(min_p)), logits, -np.inf)


def kth_largest(values: Array, k: int) -> Any:
    """Return the k-th largest of ``values``; a partition of them all only when k is large."""
    blocks = len(values) // _BLOCK
    if k * 2 < blocks:
        # k blocks have a maximum of at least the bound, so k values do: smaller ones cannot count.
        peaks = values[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
        bound = np.partition(peaks, blocks - k)[blocks - k]
        values = values[values >= bound]
    return np.partition(values, len(values) - k)[len(values) - k]


def _only(logits: Array, ids: Array) -> Array:
    result = np.full_like(logits, -np.inf)
    result[ids] = logits[ids]
    return result


def require_choice(logits: Array, where: str) -> None:
    """Check that a token can be chosen from a row.

    Raises:
        GenerationError: If it holds NaN or +inf, or is -inf everywhere.
    """
    peak = logits.max()
    if np.isfinite(peak):
        return
    if np.isnan(peak):
        found = f"{int(np.isnan(logits).sum())} of {len(logits)} logits are NaN"
    elif peak > 0:
        found = f"{int((logits == np.inf).sum())} of {len(logits)} logits are +inf"
    else:
        found = f"all {len(logits)} logits are -inf, so no token can be chosen"
    raise GenerationError(
        found,
        where=where,
        fix="check the weights, the compute type (float16 overflows) and logits processors",
    )
