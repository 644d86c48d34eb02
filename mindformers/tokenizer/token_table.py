"""Between texts, tokens and ids: what a tokenizer knows of its vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar

from mindformers.errors import TokenizerError, did_you_mean
from mindformers.tokenizer.detokenize import (
    DecodeRules,
    Detokenizer,
    StreamDecoder,
    UnknownIds,
    as_id_list,
    unknown_id,
)
from mindformers.tokenizer.special_tokens import Segment, SpecialTokens
from mindformers.tokenizer.vocabulary import Vocabulary

Token = bytes | str


class TokenTable:
    """A byte-pair vocabulary and the special tokens beside it.

    Tokens of text are ``bytes``, special tokens ``str``.

    Args:
        encoder: The byte-pair vocabulary.
        special_tokens: The tokens beside it, with ids from ``encoder.num_ranks`` on.
    """

    encode_special_tokens: bool = False
    clean_up_tokenization_spaces: bool = False
    # How ids become text where a caller does not say.
    skips_special_tokens: ClassVar[bool] = False
    spaces_between: ClassVar[bool] = True

    def __init__(self, encoder: Vocabulary, special_tokens: SpecialTokens) -> None:
        self._encoder = encoder
        self._special_tokens = special_tokens
        self._detokenizer = Detokenizer(encoder, special_tokens)

    @property
    def vocab_size(self) -> int:
        """Number of byte-pair tokens, special tokens not counted; the first special id."""
        return self._encoder.num_ranks

    def __len__(self) -> int:
        return max(self._special_tokens.by_id, default=self._encoder.num_ranks - 1) + 1

    @property
    def special_tokens(self) -> dict[str, int]:
        """Id of every special token, by its text."""
        return {text: token.id for text, token in self._special_tokens.by_text.items()}

    @property
    def all_special_tokens(self) -> list[str]:
        """Texts of the special tokens that ``skip_special_tokens`` leaves out."""
        return [token.content for token in self._special_tokens.by_id.values() if token.special]

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of ``all_special_tokens``."""
        return [token.id for token in self._special_tokens.by_id.values() if token.special]

    @property
    def vocab_hash(self) -> str:
        """SHA-256 of the byte-pair vocabulary, in hex; the published file's own hash."""
        return self._encoder.sha256

    def get_vocab(self) -> dict[Token, int]:
        """Return every token and its id, special tokens included."""
        vocab: dict[Token, int] = {token: rank for rank, token in enumerate(self._encoder.tokens)}
        vocab.update(self.special_tokens)
        return vocab

    def get_added_vocab(self) -> dict[str, int]:
        """Return the special tokens and their ids."""
        return self.special_tokens

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of ``text`` alone; control ids only with ``encode_special_tokens``.

        Raises:
            TokenizerError: If ``text`` is no string or holds a lone surrogate.
        """
        if not isinstance(text, str):
            raise TokenizerError(f"cannot tokenize a {type(text).__name__}", allowed="a string")
        if self.encode_special_tokens:
            return self.encode_segments(list(self._special_tokens.split(text)))
        return self._encoder.encode(text)

    def encode_segments(self, segments: Iterable[Segment]) -> list[int]:
        """Return the ids of segments; each run of text between control tokens is one string.

        Raises:
            TokenizerError: If a control segment is no special token.
        """
        ids: list[int] = []
        run: list[str] = []
        for text, is_control in segments:
            if not is_control:
                run.append(text)
                continue
            ids += self._encoder.encode("".join(run)) if run else []
            run = []
            ids.append(self.convert_special_tokens_to_ids(text))
        return ids + (self._encoder.encode("".join(run)) if run else [])

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False
    ) -> list[Token]:
        """Return the tokens of ``text`` (and ``pair``): bytes for text, str for special tokens."""
        ids = self.encode_text(text)
        pair_ids = None if pair is None else self.encode_text(pair)
        build = self.build_inputs_with_special_tokens if add_special_tokens else _joined
        ids = build(ids, pair_ids)
        tokens: list[Token] = self.convert_ids_to_tokens(ids)
        return tokens

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return the ids of one or two texts as a model reads them; a family adds its prefix."""
        return _joined(token_ids_0, token_ids_1)

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token, or the ids of a list of tokens.

        Raises:
            TokenizerError: If a token is not in the vocabulary.
        """
        if isinstance(tokens, bytes | str):
            return self._id_of(tokens)
        return [self._id_of(token) for token in tokens]

    def _id_of(self, token: Token) -> int:
        if isinstance(token, str):
            special = self._special_tokens.by_text.get(token)
            if special is not None:
                return special.id
        rank = self._encoder.rank_of(token.encode("utf-8") if isinstance(token, str) else token)
        if rank is None:
            raise TokenizerError(
                f"{token!r} is no token of this vocabulary",
                fix=did_you_mean(str(token), self.special_tokens),
            )
        return rank

    def convert_special_tokens_to_ids(self, token: str) -> int:
        """Return the id of a special token.

        Raises:
            TokenizerError: If there is no such special token; names the nearest.
        """
        found = self._special_tokens.by_text.get(token)
        if found is None:
            raise TokenizerError(
                f"{token!r} is no special token",
                allowed=", ".join(self.special_tokens),
                fix=did_you_mean(str(token), self.special_tokens),
            )
        return found.id

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or the tokens of a list of ids.

        Raises:
            TokenizerError: If no token has an id.
        """
        tokens = [self._token_of(token_id) for token_id in as_id_list(ids)]
        if isinstance(ids, Integral):
            return tokens[0]
        skipped = set(self.all_special_tokens) if skip_special_tokens else set()
        return [token for token in tokens if isinstance(token, bytes) or token not in skipped]

    def _token_of(self, token_id: int) -> Token:
        special = self._special_tokens.by_id.get(token_id)
        if special is not None:
            return special.content
        if not isinstance(token_id, int) or not 0 <= token_id < self.vocab_size:
            raise unknown_id(token_id, self._detokenizer)
        return self._encoder.tokens[token_id]

    def convert_tokens_to_string(self, tokens: Iterable[bytes | str | int]) -> str:
        """Return the text of tokens (bytes, special texts or ids); drops and adds nothing."""
        parts = [self._token_of(token) if isinstance(token, int) else token for token in tokens]
        joined = b"".join(part.encode("utf-8") if isinstance(part, str) else part for part in parts)
        return joined.decode("utf-8", "replace")

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        *,
        spaces_between_special_tokens: bool | None = None,
        errors: UnknownIds = "strict",
    ) -> Any:
        """Return the text of ids; of a list of lists, a list of texts.

        Args:
            token_ids: An id, a sequence, an array or a tensor of ids.
            skip_special_tokens: Leave special tokens out; None is the family's way.
            clean_up_tokenization_spaces: Remove blanks before English punctuation; None is the
                tokenizer's own setting.
            spaces_between_special_tokens: Surround special tokens with blanks; None is the
                family's way.
            errors: ``"strict"``, or ``"placeholder"`` to show ids without a token as
                ``<|unused_ID|>``.

        Raises:
            TokenizerError: If no token has an id and ``errors`` is strict.
        """
        rules = self._rules(skip_special_tokens, spaces_between_special_tokens, errors)
        clean = clean_up_tokenization_spaces
        clean = self.clean_up_tokenization_spaces if clean is None else clean
        ids = as_id_list(token_ids)
        if ids and isinstance(ids[0], list | tuple):
            return [self._decode_one(as_id_list(row), rules, clean) for row in ids]
        return self._decode_one(ids, rules, clean)

    def _rules(self, skip: bool | None, spaces: bool | None, errors: UnknownIds) -> DecodeRules:
        return DecodeRules(
            self.skips_special_tokens if skip is None else skip,
            self.spaces_between if spaces is None else spaces,
            errors,
        )

    def _decode_one(self, ids: list[int], rules: DecodeRules, clean: bool) -> str:
        text = self._detokenizer.decode(ids, rules)
        return self.clean_up_tokenization(text) if clean else text

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        **options: Any,
    ) -> list[str]:
        """Return the text of each sequence; arguments as for ``decode``."""
        return [
            self.decode(row, skip_special_tokens, clean_up_tokenization_spaces, **options)
            for row in as_id_list(sequences)
        ]

    def stream_decoder(
        self,
        skip_special_tokens: bool | None = None,
        spaces_between_special_tokens: bool | None = None,
        errors: UnknownIds = "strict",
        shown: Iterable[str] = (),
    ) -> StreamDecoder:
        """Return a decoder for one request; its parts joined equal ``decode`` of all ids.

        Args:
            skip_special_tokens: As for ``decode``.
            spaces_between_special_tokens: As for ``decode``.
            errors: As for ``decode``.
            shown: Special tokens that are not left out; those the vocabulary lacks are no error.
        """
        rules = self._rules(skip_special_tokens, spaces_between_special_tokens, errors)
        ids = frozenset(self.special_tokens[text] for text in shown if text in self.special_tokens)
        return StreamDecoder(self._detokenizer, replace(rules, shown=ids))

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """Return the text without blanks before English punctuation and contractions."""
        for mark in (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"):
            out_string = out_string.replace(f" {mark}", mark)
        return out_string.replace(" ' ", "'")


def _joined(first: list[int], second: list[int] | None) -> list[int]:
    return [*first, *(second or [])]
