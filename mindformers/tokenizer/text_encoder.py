"""Texts to padded batches of ids, with mask and positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mindformers.errors import TokenizerError
from mindformers.logger import warn_once
from mindformers.tokenizer.batch import (
    BatchEncoding,
    Padder,
    Row,
    as_encoding,
    as_rows,
    truncate_pair,
)
from mindformers.tokenizer.options import EncodeOptions
from mindformers.tokenizer.settings import TokenizerSettings, check_known_token
from mindformers.tokenizer.special_tokens import SpecialTokens
from mindformers.tokenizer.token_table import TokenTable
from mindformers.tokenizer.vocabulary import Vocabulary


class TextEncoder(TokenTable):
    """Encode texts, alone and in batches.

    Args:
        encoder: The byte-pair vocabulary.
        special_tokens: The tokens beside it.
        settings: Padding, truncation and the tokens with a role of their own.

    Raises:
        TokenizerError: If the end or the padding token is not in the table.
    """

    prefix_tokens: ClassVar[tuple[str, ...]] = ()  # every prompt begins with them
    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask", "position_ids"]

    def __init__(
        self, encoder: Vocabulary, special_tokens: SpecialTokens, settings: TokenizerSettings
    ) -> None:
        super().__init__(encoder, special_tokens)
        for name in ("eos_token", "pad_token"):
            check_known_token(name, getattr(settings, name), special_tokens.by_text)
        self.eos_token, self.pad_token = settings.eos_token, settings.pad_token
        self.encode_special_tokens = settings.encode_special_tokens
        self.clean_up_tokenization_spaces = settings.clean_up_tokenization_spaces
        self.padding_side, self.truncation_side = settings.padding_side, settings.truncation_side
        self.model_max_length = settings.model_max_length

    @property
    def eos_token_id(self) -> int:
        """Id of the token that ends a text."""
        return self.convert_special_tokens_to_ids(self.eos_token)

    @property
    def pad_token_id(self) -> int:
        """Id that fills batches."""
        return self.convert_special_tokens_to_ids(self.pad_token)

    def get_prefix_tokens(self) -> list[int]:
        """Return the ids every prompt begins with."""
        return [self.convert_special_tokens_to_ids(token) for token in self.prefix_tokens]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return prefix + first, or prefix + first + second + the end token."""
        ids = self.get_prefix_tokens() + list(token_ids_0)
        return ids if token_ids_1 is None else [*ids, *token_ids_1, self.eos_token_id]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens ``build_inputs_with_special_tokens`` adds."""
        return len(self.build_inputs_with_special_tokens([], [] if pair else None))

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Return 1 at special tokens and 0 elsewhere, for ids with or still without them."""
        ids = token_ids_0
        if not already_has_special_tokens:
            ids = self.build_inputs_with_special_tokens(token_ids_0, token_ids_1)
        special = set(self.all_special_ids)
        return [int(token_id in special) for token_id in ids]

    def __call__(
        self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **options: Any
    ) -> BatchEncoding:
        """Encode a text, a list of texts, or as many pairs.

        Args:
            text: A string or a list of strings (or of lists of ids).
            text_pair: A second text for each.
            add_special_tokens: Begin with the family's prefix.
            **options: See ``EncodeOptions``.

        Returns:
            ``input_ids``, ``attention_mask`` (1 at tokens), ``position_ids``: lists, or arrays
            (rows, tokens).

        Raises:
            TokenizerError: If a text or an option cannot be used.
        """
        checked = EncodeOptions.parse(options)
        is_batch = isinstance(text, list | tuple) and not (
            text and isinstance(text[0], int | bytes)
        )
        if not is_batch:
            pairs = [(text, text_pair)]
        elif text_pair is None:
            # a batch may also hold its pairs as tuples
            pairs = [
                item if isinstance(item, tuple) and len(item) == 2 else (item, None)
                for item in text
            ]
        elif len(text) == len(text_pair):
            pairs = list(zip(text, text_pair, strict=True))
        else:
            raise TokenizerError(f"{len(text)} texts with {len(text_pair)} second texts")
        rows = [
            self._encode_pair(first, second, add_special_tokens, checked) for first, second in pairs
        ]
        return self._finish(rows, is_batch, checked)

    def encode(
        self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **options: Any
    ) -> Any:
        """Return the ids of one text (or pair); arguments as for a call."""
        return self.encode_plus(text, text_pair, add_special_tokens, **options)["input_ids"]

    def encode_plus(
        self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **options: Any
    ) -> BatchEncoding:
        """Encode one text or pair; a list is taken as the ids or tokens of one text."""
        checked = EncodeOptions.parse(options)
        return self._finish(
            [self._encode_pair(text, text_pair, add_special_tokens, checked)], False, checked
        )

    def batch_encode_plus(
        self,
        batch_text_or_text_pairs: Sequence[Any],
        add_special_tokens: bool = True,
        **options: Any,
    ) -> BatchEncoding:
        """Encode a list of texts or of pairs."""
        return self(list(batch_text_or_text_pairs), None, add_special_tokens, **options)

    def _encode_pair(
        self, text: Any, pair: Any, add_special_tokens: bool, options: EncodeOptions
    ) -> list[int]:
        first = self._ids_of(text)
        second = None if pair is None else self._ids_of(pair)
        added = self.num_special_tokens_to_add(pair is not None) if add_special_tokens else 0
        limit = options.resolve_max_length(self.model_max_length)
        num_excess = 0 if limit is None else len(first) + len(second or []) + added - limit
        if limit is not None and limit < added and options.truncation != "do_not_truncate":
            raise TokenizerError(
                f"max_length={limit} has no room for the {added} special tokens of a prompt",
                fix="raise max_length",
            )
        first, rest = truncate_pair(
            first, second or [], num_excess, options.truncation, self.truncation_side
        )
        second = None if second is None else rest
        if not add_special_tokens:
            return first + (second or [])
        return self.build_inputs_with_special_tokens(first, second)

    def _ids_of(self, text: Any) -> list[int]:
        if not isinstance(text, list | tuple):
            return self.encode_text(text)
        return [
            self._id_of(token) if isinstance(token, bytes | str) else int(token) for token in text
        ]

    def _finish(
        self, id_lists: list[list[int]], is_batch: bool, options: EncodeOptions
    ) -> BatchEncoding:
        rows = []
        for ids in id_lists:
            row: Row = {"input_ids": ids}
            if options.return_attention_mask is not False:
                row["attention_mask"] = [1] * len(ids)
            row["position_ids"] = list(range(len(ids)))
            if options.return_special_tokens_mask:
                row["special_tokens_mask"] = self.get_special_tokens_mask(
                    ids, already_has_special_tokens=True
                )
            rows.append(row)
            if len(ids) > self.model_max_length:
                warn_once(
                    "a text of %d tokens is longer than the model reads (%d)",
                    len(ids),
                    self.model_max_length,
                )
        padded = self._padder().pad(rows, options)
        encoding = as_encoding(padded, is_batch, options.return_tensors)
        if options.return_length:
            lengths = [len(row["input_ids"]) for row in padded]
            encoding["length"] = lengths if is_batch else lengths[0]
        return encoding

    def _padder(self) -> Padder:
        return Padder(self.pad_token_id, self.padding_side, self.model_max_length)

    def pad(self, encoded_inputs: Any, padding: Any = True, **options: Any) -> BatchEncoding:
        """Pad what the tokenizer returned: one encoding, or a list of them.

        Args:
            encoded_inputs: A mapping with ``input_ids``, or a list of such mappings.
            padding: True or ``"longest"``, or ``"max_length"``.
            **options: ``max_length``, ``pad_to_multiple_of``, ``padding_side``, ``return_tensors``,
                ``return_attention_mask``.

        Raises:
            TokenizerError: If there are no ``input_ids``, or an option cannot be used.
        """
        checked = EncodeOptions.parse({"padding": padding, "truncation": False, **options})
        rows, is_batch = as_rows(encoded_inputs)
        for row in rows:
            if checked.return_attention_mask is not False:
                row.setdefault("attention_mask", [1] * len(row["input_ids"]))
        return as_encoding(self._padder().pad(rows, checked), is_batch, checked.return_tensors)
