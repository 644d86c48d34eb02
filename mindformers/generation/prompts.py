"""Prompts as the engine wants them: one list of ids per row, no padding, every id checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mindformers.errors import GenerationError
from mindformers.generation.array import Array


def prepare_prompts(
    input_ids: Any, pad_token_id: int | None = None, attention_mask: Any = None
) -> list[list[int]]:
    """Turn whatever holds token ids into one list per row, without the padding.

    With ``attention_mask`` exactly the ids marked 1 are kept. Without one, padding is told from
    content by these rules:

    * rows of different length are not padded: nothing is removed;
    * if any row begins with the pad id, the rows are left-padded: leading runs are removed, and an
      end of pad ids is content;
    * else the runs at the rows' ends are removed;
    * but a run of exactly one pad id at that end of *every* row is content, not padding: GLM-4 pads
      with the id that also ends an answer, and padding up to the longest row leaves that one bare.

    A real end token followed by padding is removed with it: give the mask where that matters.

    Args:
        input_ids: 1-D or 2-D array, nested lists (also of different length), or a tensor.
        pad_token_id: The id rows were filled up with; None: no padding is looked for.
        attention_mask: Same shape as ``input_ids``; 1 where an id is real, 0 where it is padding.

    Returns:
        One list of ids per row.

    Raises:
        GenerationError: If the input holds no ids, text, fractions or more than two axes; if the
            mask has another shape; if a row holds nothing but padding.
    """
    rows = _as_rows(input_ids, "input_ids")
    if attention_mask is not None:
        rows = _masked(rows, _as_rows(attention_mask, "attention_mask"))
    elif pad_token_id is not None and len({len(row) for row in rows}) == 1:
        rows = _without_padding(rows, pad_token_id)
    for number, row in enumerate(rows):
        if not len(row):
            raise GenerationError(
                "is empty or holds only padding",
                where=f"prompt {number}",
                fix="give at least one token",
            )
    return [row.tolist() for row in rows]


def _as_rows(values: Any, name: str) -> list[Array]:
    """Return 1-D int64 rows of an array, a tensor or (nested) lists."""
    values = values.asnumpy() if hasattr(values, "asnumpy") else values
    if isinstance(values, (str, bytes)):
        raise _not_ids(name, "a text")
    if isinstance(values, (list, tuple)):
        nested = [hasattr(item, "__len__") for item in values]
        if any(nested):
            if not all(nested):
                raise _not_ids(name, "ids and lists side by side")
            return [_as_row(item, name) for item in values]
    elif not hasattr(values, "__array__"):
        raise _not_ids(name, repr(values)[:60])
    array = np.asarray(values)
    if array.ndim == 2:
        return [_as_row(row, name) for row in array]
    return [_as_row(array, name)]


def _as_row(values: Any, name: str) -> Array:
    if isinstance(values, (str, bytes)):
        raise _not_ids(name, "a text")
    values = values.asnumpy() if hasattr(values, "asnumpy") else values
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise _not_ids(name, "lists nested more than two deep") from error
    if array.ndim != 1:
        raise _not_ids(name, f"an array of {array.ndim} axes")
    if not array.size:
        return np.zeros(0, np.int64)
    if array.dtype.kind not in "iu" and not (array.dtype.kind == "b" and name == "attention_mask"):
        raise _not_ids(name, f"values of type {array.dtype.name}")
    return array.astype(np.int64)


def _not_ids(name: str, found: str) -> GenerationError:
    return GenerationError(
        f"found {found}",
        where=name,
        allowed="one list of whole numbers per prompt, as array, tensor or list",
        fix="encode text with the tokenizer first" if "text" in found or "str" in found else "",
    )


def _masked(rows: list[Array], mask: list[Array]) -> list[Array]:
    shapes = [len(row) for row in rows], [len(row) for row in mask]
    if shapes[0] != shapes[1]:
        raise GenerationError(
            f"row lengths {shapes[1]}",
            where="attention_mask",
            allowed=f"those of input_ids: {shapes[0]}",
        )
    for marks in mask:
        if not np.isin(marks, (0, 1)).all():
            raise GenerationError(
                f"found {int(marks[~np.isin(marks, (0, 1))][0])}",
                where="attention_mask",
                allowed="1 for a token, 0 for padding",
            )
    return [row[marks == 1] for row, marks in zip(rows, mask, strict=True)]


def _without_padding(rows: list[Array], pad: int) -> list[Array]:
    real = [np.flatnonzero(row != pad) for row in rows]
    leading = [int(places[0]) if len(places) else 0 for places in real]
    trailing = [
        len(row) - 1 - int(p[-1]) if len(p) else 0 for row, p in zip(rows, real, strict=True)
    ]
    full = [len(places) > 0 or not len(row) for row, places in zip(rows, real, strict=True)]
    if not all(full):
        raise GenerationError(
            f"holds only the pad id {pad}",
            where=f"prompt {full.index(False)}",
            fix="give at least one other token, or an attention_mask",
        )
    if _is_padding(leading):
        return [row[count:] for row, count in zip(rows, leading, strict=True)]
    if _is_padding(trailing):
        return [row[: len(row) - count] for row, count in zip(rows, trailing, strict=True)]
    return rows


def _is_padding(runs: list[int]) -> bool:
    """Whether runs of the pad id at one end, one length per row, are padding and not content."""
    return any(runs) and any(run != 1 for run in runs)


def check_prompts(prompts: Any, vocab_size: int, max_positions: int) -> list[list[int]]:
    """Check prompts against a model.

    Args:
        prompts: One sequence of ids per row, without padding.
        vocab_size: Ids of the model.
        max_positions: Tokens of prompt and answer the model can hold.

    Returns:
        Plain lists of int.

    Raises:
        GenerationError: If a row is empty or too long, or an id does not exist.
    """
    rows = prepare_prompts(prompts)
    for number, row in enumerate(rows):
        if len(row) >= max_positions:
            raise GenerationError(
                f"has {len(row)} tokens and leaves no room for an answer: the model holds "
                f"{max_positions} in all",
                where=f"prompt {number}",
                fix="shorten the prompt or raise seq_length",
            )
        _check_vocabulary(row, number, vocab_size)
    return rows


def check_read_prompts(prompts: Any, vocab_size: int, max_positions: int) -> list[list[int]]:
    """Check prompts that are only read, and may be as long as the model holds; else as ``check_prompts``."""
    rows = prepare_prompts(prompts)
    for number, row in enumerate(rows):
        if len(row) > max_positions:
            raise GenerationError(
                f"has {len(row)} tokens",
                where=f"prompt {number}",
                allowed=f"1 to {max_positions}",
                fix="shorten the prompt, or raise num_blocks or seq_length",
            )
        _check_vocabulary(row, number, vocab_size)
    return rows


def _check_vocabulary(row: list[int], number: int, vocab_size: int) -> None:
    ids = np.asarray(row)
    wrong = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if len(wrong):
        raise GenerationError(
            f"id {row[wrong[0]]} at place {wrong[0]}",
            where=f"prompt {number}",
            allowed=f"0 to {vocab_size - 1}",
            fix="use the tokenizer of this model",
        )


def answer_limits(
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | None,
    max_length: int,
    max_positions: int,
) -> tuple[list[int], str]:
    """Return how long each row may become, and a sentence when the model's limit cut that short.

    Args:
        prompts: Rows shorter than ``max_positions``.
        max_new_tokens: Tokens of the answer; wins over ``max_length``.
        max_length: Tokens of prompt and answer.
        max_positions: Tokens of prompt and answer the model can hold.

    Returns:
        Tokens of prompt and answer per row, and the warning or an empty text.

    Raises:
        GenerationError: If ``max_length`` leaves a row no room.
    """
    limits, note = [], ""
    for number, row in enumerate(prompts):
        wanted = max_length if max_new_tokens is None else len(row) + max_new_tokens
        if wanted <= len(row):
            raise GenerationError(
                f"has {len(row)} tokens and leaves no room for an answer: max_length {max_length} "
                "counts both",
                where=f"prompt {number}",
                fix="give max_new_tokens, or a larger max_length",
            )
        if wanted > max_positions and not note:
            asked = f"prompt {number} of {len(row)} tokens and max_new_tokens {max_new_tokens}"
            if max_new_tokens is None:
                asked = f"max_length {max_length}"
            note = (
                f"{asked}: more than the {max_positions} tokens the model holds, so the answer is "
                f"cut to {max_positions - len(row)} tokens"
            )
        limits.append(min(wanted, max_positions))
    return limits, note
