"""Byte-pair encoding: text to ranks, ranks to bytes. Knows no special tokens."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import regex
import tiktoken

from mindformers.errors import TokenizerError
from mindformers.tokenizer.rank_file import rank_file_of, read_rank_file
from mindformers.tokenizer.tokenizer_json import read_tokenizer_json

# Source: tokenization_chatglm.py of glm-4-9b-chat.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The backend's regex engine overflows its stack on a run of some hundred thousand blanks.
_LONG_RUN = 20_000
_LONG_BLANK = re.compile(rf"\s{{{_LONG_RUN}}}")


class BytePairEncoder:
    """Encode any text into ranks and back, byte for byte. Immutable; threads may share one.

    Args:
        tokens: Token bytes indexed by rank; all 256 single bytes are among them.
        content: The same as a rank file; None: made when it is asked for.
    """

    def __init__(self, tokens: Sequence[bytes], content: bytes | None = None) -> None:
        self.tokens = list(tokens)
        self._content = content
        self._ranks = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        self._encoding = tiktoken.Encoding(
            "glm4", pat_str=SPLIT_PATTERN, mergeable_ranks=self._ranks, special_tokens={}
        )

    def __reduce__(self) -> tuple[type[BytePairEncoder], tuple[list[bytes]]]:
        return BytePairEncoder, (self.tokens,)

    @property
    def num_ranks(self) -> int:
        """How many tokens the vocabulary has, special tokens not counted."""
        return len(self.tokens)

    @cached_property
    def rank_file(self) -> bytes:
        """The vocabulary as the bytes of a rank file."""
        return rank_file_of(self.tokens) if self._content is None else self._content

    @cached_property
    def sha256(self) -> str:
        """Hash of ``rank_file``: the same for the same vocabulary, whatever its line ends were."""
        return hashlib.sha256(self.rank_file).hexdigest()

    def rank_of(self, token: bytes) -> int | None:
        """Return the rank of a token, or None when it is not in the vocabulary."""
        return self._ranks.get(token)

    def encode(self, text: str) -> list[int]:
        """Return the ranks of ``text``; the text of a special token is ordinary text here.

        Raises:
            TokenizerError: If the text holds a lone surrogate, which has no UTF-8 form.
        """
        refuse_surrogates(text)
        if _has_long_blank(text):
            return self._encode_piecewise(text)
        ranks: list[int] = self._encoding.encode_ordinary(text)
        return ranks

    def _encode_piecewise(self, text: str) -> list[int]:
        ranks: list[int] = []
        for match in regex.finditer(SPLIT_PATTERN, text):
            ranks.extend(self._encoding._encode_single_piece(match.group()))
        return ranks

    def decode(self, ranks: Sequence[int]) -> bytes:
        """Return the bytes of ``ranks``, which may end within a character.

        Raises:
            TokenizerError: If a rank is not in the vocabulary.
        """
        try:
            decoded: bytes = self._encoding.decode_bytes(ranks)
        except (KeyError, OverflowError, TypeError) as error:
            bad = next(
                (r for r in ranks if not isinstance(r, int) or not 0 <= r < self.num_ranks), None
            )
            raise TokenizerError(
                f"no token has rank {bad!r}", allowed=f"0 to {self.num_ranks - 1}"
            ) from error
        return decoded

    @staticmethod
    def begin(token: bytes) -> tuple[bytes, bool]:
        """Return a token as it is at the start of a text: unchanged."""
        return token, True


def _has_long_blank(text: str) -> bool:
    return len(text) >= _LONG_RUN and _LONG_BLANK.search(text) is not None


def refuse_surrogates(text: str) -> None:
    """Raise TokenizerError for half a character: the backend would replace it without a word."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"lone surrogate U+{ord(text[error.start]):04X} at character {error.start} of the text",
            fix="it is half of a character: repair the text where it was read",
        ) from error


def load_encoder(path: str | Path) -> BytePairEncoder:
    """Return the encoder of a rank file or a ``tokenizer.json``; read once while it is unchanged.

    Raises:
        TokenizerError: If the file cannot be used.
    """
    path = Path(path)
    try:
        status = path.stat()
    except OSError:
        return BytePairEncoder(*read_rank_file(path))  # raises, and says why
    return _load(path.resolve(), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _load(path: Path, modified_ns: int, size: int) -> BytePairEncoder:
    if path.suffix == ".json":
        return BytePairEncoder(read_tokenizer_json(path, SPLIT_PATTERN))
    return BytePairEncoder(*read_rank_file(path))
