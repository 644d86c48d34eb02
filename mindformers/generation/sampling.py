"""Choosing a token from a row of scores: the likeliest, or a draw from the row's own generator."""

from __future__ import annotations

from typing import Any

import numpy as np

from mindformers.errors import GenerationError
from mindformers.generation.array import Array
from mindformers.generation.config_fields import whole_number

MAX_SEED = 2**64 - 1


def call_seed(seed: Any) -> int:
    """Return the seed of one call.

    Args:
        seed: 0 to 2**64 - 1, or None: one draw from NumPy's process-wide state, so that a process
            that was seeded repeats itself and each call differs.

    Raises:
        GenerationError: If it is no whole number or out of range.
    """
    if seed is None:
        return int(np.random.randint(0, 2**63 - 1, dtype=np.int64))
    try:
        number = whole_number(seed)
    except ValueError:
        number = -1
    if not 0 <= number <= MAX_SEED:
        raise GenerationError(
            f"found {seed!r}", where="seed", allowed="a whole number from 0 to 2**64 - 1"
        )
    return number


def row_generator(seed: int, row: int) -> np.random.Generator:
    """Return the generator of one row; what other rows draw does not touch it."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, row])))


def choose_greedy(scores: Array) -> int:
    """Return the id of the largest score, the lowest id of equals. ``scores``: (V,), checked."""
    return int(scores.argmax())


def probabilities(scores: Array) -> tuple[Array, Array]:
    """Return what can be drawn.

    Args:
        scores: (V,) float32, checked; -inf where ruled out.

    Returns:
        ids (K,) ascending, and their probabilities (K,) float64, which sum to 1.
    """
    ids = np.flatnonzero(scores > -np.inf)
    values = scores[ids].astype(np.float64)
    weights = np.exp(values - values.max())
    return ids, weights / weights.sum()


def choose_sampled(scores: Array, generator: np.random.Generator) -> int:
    """Draw an id in proportion to ``exp(scores)``; one number is taken from ``generator``.

    Args:
        scores: (V,) float32, checked; -inf where ruled out.
        generator: The row's own.
    """
    ids, weights = probabilities(scores)
    steps = np.cumsum(weights)
    # Rounding may leave the last step a hair off 1: scaling by it keeps every draw inside.
    place = np.searchsorted(steps, generator.random() * steps[-1], side="right")
    return int(ids[min(int(place), len(ids) - 1)])


def choose(scores: Array, generator: np.random.Generator | None) -> int:
    """Return the likeliest id, or a draw where the row has a generator. ``scores``: (V,), checked."""
    return choose_greedy(scores) if generator is None else choose_sampled(scores, generator)
