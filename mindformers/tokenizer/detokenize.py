"""Ids back to text: all at once, or one by one as a model writes them."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import index
from typing import Any, Literal

import numpy as np

from mindformers.errors import TokenizerError
from mindformers.tokenizer.special_tokens import SpecialTokens
from mindformers.tokenizer.vocabulary import Vocabulary

UnknownIds = Literal["strict", "placeholder"]


@dataclass(frozen=True)
class DecodeRules:
    """How ids become text.

    Args:
        skip_special_tokens: Leave special tokens out.
        spaces_between_special_tokens: Surround special tokens with blanks, as in ``[gMASK] <sop>
            Hello``.
        errors: What an id without a token becomes: ``"strict"`` an error, ``"placeholder"`` the
            text ``<|unused_ID|>``.
        shown: Ids of special tokens that are not left out.
    """

    skip_special_tokens: bool = False
    spaces_between_special_tokens: bool = True
    errors: UnknownIds = "strict"
    shown: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.errors not in ("strict", "placeholder"):
            raise TokenizerError(
                f"errors={self.errors!r}", where="decode", allowed="'strict' or 'placeholder'"
            )


def as_id_list(token_ids: Any) -> list[Any]:
    """Return a number, a sequence, an array or a tensor of ids as a (nested) list of numbers."""
    if hasattr(token_ids, "asnumpy"):
        token_ids = token_ids.asnumpy()
    if isinstance(token_ids, np.ndarray | np.generic):
        token_ids = token_ids.tolist()
    if isinstance(token_ids, int):
        return [token_ids]
    if not isinstance(token_ids, Iterable) or isinstance(token_ids, str | bytes):
        raise TokenizerError(
            f"token ids cannot be a {type(token_ids).__name__}",
            allowed="an int, a list of ints, an array, a tensor",
        )
    return [
        item.tolist() if isinstance(item, np.ndarray | np.generic) else item for item in token_ids
    ]


class Detokenizer:
    """Turn ids into byte runs and special texts.

    Args:
        encoder: The byte-pair vocabulary.
        special_tokens: The tokens beside it.
    """

    def __init__(self, encoder: Vocabulary, special_tokens: SpecialTokens) -> None:
        self.encoder = encoder
        self.special_tokens = special_tokens

    def piece(self, token_id: Any, rules: DecodeRules) -> bytes | str | None:
        """Return what one id stands for: bytes, a special token's text, or None to leave it out.

        Raises:
            TokenizerError: If no token has this id and the rules are strict.
        """
        try:
            token_id = index(token_id)
        except TypeError as error:
            raise TokenizerError(
                f"a token id cannot be {token_id!r}", allowed="an integer"
            ) from error
        if 0 <= token_id < self.encoder.num_ranks:
            return self.encoder.tokens[token_id]
        token = self.special_tokens.by_id.get(token_id)
        if token is not None and not token.special:
            return token.content.encode("utf-8")
        if token is None and rules.errors == "strict":
            raise unknown_id(token_id, self)
        if rules.skip_special_tokens and token_id not in rules.shown:
            return None
        return token.content if token is not None else f"<|unused_{token_id}|>"

    def begin(self, piece: bytes | str) -> tuple[bytes | str, bool]:
        """Return the first piece of a text as it is shown, and whether the text has begun with it."""
        return (piece, True) if isinstance(piece, str) else self.encoder.begin(piece)

    def decode(self, token_ids: Sequence[int], rules: DecodeRules) -> str:
        """Return the text of ids; bytes that are no UTF-8 become U+FFFD.

        Raises:
            TokenizerError: If no token has one of the ids and the rules are strict.
        """
        with suppress(TokenizerError):  # no special token among them: in one go
            return self.encoder.decode(token_ids).decode("utf-8", "replace")
        stream = StreamDecoder(self, rules)
        return "".join([*map(stream.put, token_ids), stream.flush()])


def unknown_id(token_id: int, detokenizer: Detokenizer) -> TokenizerError:
    """Return the error for an id without a token."""
    largest = max(detokenizer.special_tokens.by_id, default=detokenizer.encoder.num_ranks - 1)
    fix = "pass errors='placeholder' to show it anyway"
    if token_id < 0:
        fix = "-100 marks labels that are not learnt: remove them before decoding"
    elif token_id > largest:
        fix = (
            "the model's output has padding rows above the vocabulary: mask them when sampling, or "
            + fix
        )
    return TokenizerError(f"no token has the id {token_id}", allowed=f"0 to {largest}", fix=fix)


class StreamDecoder:
    """Decode one request's ids as they come; the parts joined are the decoding of the whole.

    ``put`` returns complete characters only: the bytes of a split one wait for the next id. Each
    request needs a decoder of its own.

    Args:
        detokenizer: What turns ids into bytes.
        rules: How ids become text.
    """

    def __init__(self, detokenizer: Detokenizer, rules: DecodeRules) -> None:
        self._detokenizer = detokenizer
        self._rules = rules
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._has_begun = False
        self._last: type | None = None  # kind of the piece before: bytes, str, or None at the start

    def put(self, token_id: int) -> str:
        """Return the text that became complete with ``token_id``; often empty."""
        piece = self._detokenizer.piece(token_id, self._rules)
        if piece is None:
            return ""
        if not self._has_begun:
            piece, self._has_begun = self._detokenizer.begin(piece)
        before, self._last = self._last, type(piece)
        gap = before is not None and (isinstance(piece, str) or before is str)
        space = " " if gap and self._rules.spaces_between_special_tokens else ""
        if isinstance(piece, str):
            return self._utf8.decode(b"", final=True) + space + piece
        return space + self._utf8.decode(piece)

    def flush(self) -> str:
        """Return what is left: U+FFFD if the ids stopped within a character, else nothing."""
        return self._utf8.decode(b"", final=True)
