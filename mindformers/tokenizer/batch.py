"""Batches of encoded texts: truncation, padding, positions, arrays."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np

from mindformers.errors import TokenizerError, did_you_mean
from mindformers.logger import warn_once
from mindformers.tokenizer.detokenize import as_id_list

Row = dict[str, Any]
NO_LIMIT = int(1e30)  # what Hugging Face writes for "no maximal length"
_PADDING = {False: "do_not_pad", None: "do_not_pad", True: "longest"}
_TRUNCATION = {False: "do_not_truncate", None: None, True: "longest_first"}
# Known to callers of other tokenizers, without a meaning here at another value.
_NEUTRAL = {
    "stride": (0,),
    "is_split_into_words": (False,),
    "return_overflowing_tokens": (False,),
    "return_offsets_mapping": (False,),
    "return_token_type_ids": (None, False),
    "verbose": (True, False),
    "use_fast": (True, False, None),
}


class BatchEncoding(dict[str, Any]):
    """Encoded texts by name (``input_ids``, ``attention_mask``, ...), also as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"BatchEncoding has {', '.join(self)}, not {name!r}") from None

    @property
    def data(self) -> dict[str, Any]:
        """The content as a plain dict."""
        return dict(self)


@dataclass(frozen=True)
class EncodeOptions:
    """How encoded texts are cut, padded and returned.

    Args:
        padding: ``"do_not_pad"``, ``"longest"`` or ``"max_length"``; True is longest, False none.
        truncation: ``"do_not_truncate"``, ``"longest_first"``, ``"only_first"`` or
            ``"only_second"``; True is longest_first. None cuts only when ``max_length`` is given
            without padding.
        max_length: Tokens per row, special tokens included.
        pad_to_multiple_of: Round padded rows up to a multiple of this.
        padding_side: ``"left"`` or ``"right"``; None is the tokenizer's own.
        return_tensors: None for lists, ``"np"`` for int32 NumPy arrays, ``"ms"`` for MindSpore
            tensors.
        return_attention_mask: False leaves the mask out.
        return_special_tokens_mask: Add a mask that is 1 at special tokens.
        return_length: Add the number of tokens per row.
    """

    padding: Any = False
    truncation: Any = None
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    padding_side: str | None = None
    return_tensors: Any = None
    return_attention_mask: bool | None = None
    return_special_tokens_mask: bool = False
    return_length: bool = False

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> EncodeOptions:
        """Check keyword arguments and return them as options.

        Raises:
            TokenizerError: If a name or a value is unknown, or asks for what there is not.
        """
        known = {field.name for field in fields(cls)}
        for name, value in options.items():
            if name in _NEUTRAL and value not in _NEUTRAL[name]:
                raise TokenizerError(
                    f"{name}={value!r} is not available",
                    allowed=" or ".join(map(repr, _NEUTRAL[name])),
                )
            if name not in known and name not in _NEUTRAL:
                raise TokenizerError(
                    f"unknown argument {name!r}", where="tokenizer", fix=did_you_mean(name, known)
                )
        return cls(**{name: value for name, value in options.items() if name in known})

    def __post_init__(self) -> None:
        padding = _strategy(
            "padding", self.padding, _PADDING, ("longest", "max_length", "do_not_pad")
        )
        choices = ("longest_first", "only_first", "only_second", "do_not_truncate")
        truncation = _strategy("truncation", self.truncation, _TRUNCATION, choices)
        if truncation is None:
            cut = self.max_length is not None and padding == "do_not_pad"
            if cut:
                warn_once(
                    "max_length without truncation cuts texts; pass truncation=True to say so"
                )
            truncation = "longest_first" if cut else "do_not_truncate"
        object.__setattr__(self, "padding", padding)
        object.__setattr__(self, "truncation", truncation)
        for name in ("max_length", "pad_to_multiple_of"):
            value = getattr(self, name)
            if value is not None and (
                not isinstance(value, int) or isinstance(value, bool) or value < 1
            ):
                raise TokenizerError(f"{name}={value!r}", allowed="an integer of at least 1")
        check_side("padding_side", self.padding_side or "left")

    def resolve_max_length(self, model_max_length: int) -> int | None:
        """Return the length rows are cut or padded to, or None where there is no limit.

        Raises:
            TokenizerError: If rows are to be padded to a length nobody gave.
        """
        if self.max_length is not None:
            return self.max_length
        if model_max_length < NO_LIMIT:
            return model_max_length
        if self.padding == "max_length":
            raise TokenizerError("padding='max_length' without a max_length", fix="pass max_length")
        return None


OPTION_NAMES = frozenset(field.name for field in fields(EncodeOptions)) | frozenset(_NEUTRAL)


def _strategy(name: str, value: Any, words: Mapping[Any, Any], choices: Sequence[str]) -> Any:
    value = getattr(value, "value", value)  # an enumeration's member
    if isinstance(value, bool) or value is None:
        return words[value]
    if value not in choices:
        allowed = ", ".join(("True", "False", *choices))
        raise TokenizerError(
            f"{name}={value!r}", allowed=allowed, fix=did_you_mean(str(value), choices)
        )
    return value


def check_side(name: str, side: Any) -> str:
    """Return ``side`` if it is ``"left"`` or ``"right"``; raise TokenizerError otherwise."""
    if side not in ("left", "right"):
        raise TokenizerError(f"{name}={side!r}", allowed="'left' or 'right'")
    return str(side)


def truncate_pair(
    first: list[int], second: list[int], num_excess: int, strategy: str, side: str
) -> tuple[list[int], list[int]]:
    """Remove ``num_excess`` ids from one or both lists, from ``side``.

    Raises:
        TokenizerError: If the list that may be cut is too short.
    """
    if num_excess <= 0 or strategy == "do_not_truncate":
        return first, second
    if strategy == "longest_first":
        # cut the longer one down to the shorter, then both in turns, the second first
        cut_longer = min(num_excess, abs(len(first) - len(second)))
        rest = num_excess - cut_longer
        cuts = [rest // 2, (rest + 1) // 2]
        cuts[0 if len(first) > len(second) else 1] += cut_longer
    else:
        cuts = [num_excess, 0] if strategy == "only_first" else [0, num_excess]
    if cuts[0] > len(first) or cuts[1] > len(second):
        raise TokenizerError(
            f"cannot remove {num_excess} tokens with truncation={strategy!r}",
            fix="raise max_length",
        )
    return _cut(first, cuts[0], side), _cut(second, cuts[1], side)


def _cut(ids: list[int], count: int, side: str) -> list[int]:
    return ids[count:] if side == "left" else ids[: len(ids) - count]


def truncate_behind(prefix: list[int], ids: list[int], max_length: int, side: str) -> list[int]:
    """Cut ``ids`` to ``max_length`` from ``side``, but never the ``prefix`` they begin with.

    Raises:
        TokenizerError: If ``max_length`` has no room for the prefix.
    """
    keep = prefix if ids[: len(prefix)] == prefix else []
    if max_length < len(keep):
        raise TokenizerError(
            f"max_length={max_length} has no room for the {len(keep)} tokens of the prefix",
            fix="raise max_length",
        )
    body, _ = truncate_pair(ids[len(keep) :], [], len(ids) - max_length, "only_first", side)
    return keep + body


@dataclass(frozen=True)
class Padder:
    """Pad rows to one length.

    Args:
        pad_id: Id that fills ``input_ids``.
        side: Where the padding goes.
        model_max_length: Limit for ``padding="max_length"`` without a max_length.
    """

    pad_id: int
    side: str
    model_max_length: int

    def pad(self, rows: Sequence[Row], options: EncodeOptions) -> list[Row]:
        """Return the rows padded as ``options`` say; longer ones stay as they are.

        A mask is 1 at tokens and 0 at padding; positions count the tokens and are 0 at padding.
        """
        if options.padding == "do_not_pad":
            return list(rows)
        length = max((len(row["input_ids"]) for row in rows), default=0)
        if options.padding == "max_length":
            length = cast(int, options.resolve_max_length(self.model_max_length))
        multiple = options.pad_to_multiple_of or 1
        length = -(-length // multiple) * multiple
        return [self._pad_row(row, length, options.padding_side or self.side) for row in rows]

    def _pad_row(self, row: Row, length: int, side: str) -> Row:
        missing = length - len(row["input_ids"])
        fill = {
            "input_ids": self.pad_id,
            "attention_mask": 0,
            "position_ids": 0,
            "special_tokens_mask": 1,
        }
        padded = dict(row)
        for name, value in fill.items():
            if name in row and missing > 0:
                extra = [value] * missing
                padded[name] = extra + row[name] if side == "left" else row[name] + extra
        return padded


def as_rows(encoded: Any) -> tuple[list[Row], bool]:
    """Return encoded texts as rows of lists, and whether they were a batch.

    Args:
        encoded: One mapping with ``input_ids`` (flat, or a list of lists), or a list of such
            mappings.

    Raises:
        TokenizerError: If there are no ``input_ids``.
    """
    if isinstance(encoded, Mapping):
        columns = {name: as_id_list(value) for name, value in encoded.items()}
        ids = _require_ids(columns)["input_ids"]
        if not ids or not isinstance(ids[0], list | tuple):
            return [columns], False
        return [
            {name: list(column[i]) for name, column in columns.items()} for i in range(len(ids))
        ], True
    rows = [{name: as_id_list(value) for name, value in row.items()} for row in encoded]
    return [_require_ids(row) for row in rows], True


def _require_ids(row: Row) -> Row:
    if "input_ids" not in row:
        raise TokenizerError(
            "an encoded text has no input_ids", where="pad", fix="pad what the tokenizer returned"
        )
    return row


def as_encoding(rows: Sequence[Row], is_batch: bool, return_tensors: Any) -> BatchEncoding:
    """Return rows as columns; arrays have a batch axis in front, lists of a single text do not.

    Raises:
        TokenizerError: If arrays are asked for and the rows have different lengths.
    """
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["input_ids"]
    for name in (name for name in names for row in rows if name not in row):
        raise TokenizerError(
            f"an encoded text has no {name}, others have", fix="give all rows the same columns"
        )
    columns = BatchEncoding({name: [row[name] for row in rows] for name in names})
    kind = getattr(return_tensors, "value", return_tensors)
    if kind is None:
        return columns if is_batch else BatchEncoding(rows[0])
    if kind not in ("np", "ms"):
        raise TokenizerError(f"return_tensors={kind!r}", allowed="None, 'np' or 'ms'")
    lengths = {len(row["input_ids"]) for row in rows if "input_ids" in row}
    if len(lengths) > 1:
        raise TokenizerError(
            f"rows of {min(lengths)} to {max(lengths)} tokens make no array",
            fix="pass padding=True",
        )
    arrays = {name: np.asarray(column, dtype=np.int32) for name, column in columns.items()}
    if kind == "ms":
        tensor = importlib.import_module("mindspore").Tensor
        arrays = {name: tensor(array) for name, array in arrays.items()}
    return BatchEncoding(arrays)
