"""What tokenizers need of a vocabulary, whatever file it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Vocabulary(Protocol):
    """Text to ids and back, control tokens left out."""

    tokens: list[bytes]  # what each id adds to a text

    @property
    def num_ranks(self) -> int:
        """How many tokens the vocabulary has, special tokens not counted."""

    @property
    def rank_file(self) -> bytes:
        """The vocabulary as the bytes of its file."""

    @property
    def sha256(self) -> str:
        """Hash of ``rank_file``."""

    def rank_of(self, token: bytes) -> int | None:
        """Return the id of a token, or None when it is not in the vocabulary."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``; the text of a special token is ordinary text here."""

    def decode(self, ranks: Sequence[int]) -> bytes:
        """Return the bytes of ids; raises TokenizerError for one that is not in the vocabulary."""

    def begin(self, token: bytes) -> tuple[bytes, bool]:
        """Return what a token is at the start of a text, and whether the text has begun with it."""
