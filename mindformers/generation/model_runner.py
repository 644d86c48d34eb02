"""``ModelRunner``: a model with a cache, as the token loop sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mindformers.generation.array import Array


class ModelRunner(Protocol):
    """A model with a cache, seen from the token loop.

    Guessed tokens need ``extend``, ``rollback`` and ``room``; a loop without guesses never calls them.
    """

    vocab_size: int  # V
    max_length: int  # tokens of prompt and answer it can hold

    def prefill(self, prompts: list[list[int]]) -> Array:
        """Read whole prompts; return the next token's logits, (B, V) float32."""

    def decode(self, tokens: Array, rows: Array) -> Array:
        """Read one more token of some rows; the others have left.

        Args:
            tokens: (A,) int32, the newest token of each.
            rows: (A,) int32, which prompts of ``prefill`` they continue.

        Returns:
            (A, V) float32, the next token's logits.
        """

    def extend(self, tokens: Sequence[Sequence[int]], rows: Array) -> Array:
        """Read several more tokens of some rows; the others have left.

        Args:
            tokens: For each row 1 or more ids.
            rows: (A,) int32, which prompts of ``prefill`` they continue.

        Returns:
            (T, V) float32, the logits after every one of them, those of a row side by side.
        """

    def rollback(self, lengths: Sequence[int], rows: Sequence[int]) -> None:
        """Forget of some rows what lies behind their first ``lengths`` tokens, prompt included."""

    def room(self, num_rows: int) -> int:
        """Return how many tokens each of so many rows can surely take at once."""

    def release(self) -> None:
        """Forget the prompts; called once, also after an error."""
