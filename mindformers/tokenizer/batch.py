"""Batches of encoded texts: truncation, padding, arrays."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from mindformers.errors import TokenizerError
from mindformers.tokenizer.detokenize import as_id_list
from mindformers.tokenizer.options import EncodeOptions

Row = dict[str, Any]


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
