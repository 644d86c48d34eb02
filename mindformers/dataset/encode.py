"""A conversation as one training row: token ids, and labels on what the model has to say.

Which tokens those are is told in ``labels``. The family's closing token (``<|user|>``; ``</s>`` before
GLM-4) is appended after the last turn, so every answer learns to stop. Loads no MindSpore.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from mindformers.config.columns import IGNORED_LABEL
from mindformers.dataset.labels import (
    ANSWER,
    EncodedRows,
    TrainOn,
    cut_rows,
    owned_at_end,
    owned_by_roles,
    shifted_labels,
    split_rows,
    with_texts,
)
from mindformers.dataset.messages import data_error
from mindformers.errors import DataError, TokenizerError

# Begin and end of a text without turns: GLM-4's names, then those before it.
_BEGIN, _BEFORE_TEXT, _END_OF_TEXT = "[gMASK]", ("<sop>", "sop"), ("<|endoftext|>", "</s>")

TooLong = Literal["truncate", "drop", "error", "split"]


class Tokenizer(Protocol):
    """What this file needs of a tokenizer."""

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the control tokens by their text."""

    @property
    def closing_token(self) -> str:
        """The control token that follows the last answer."""

    @property
    def pad_token_id(self) -> int:
        """Id that fills up short rows."""

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Any:
        """Return a conversation as segments of text and control tokens."""

    def encode_segments(self, segments: Iterable[Any]) -> list[int]:
        """Return the ids of segments."""


class TooLongError(DataError):
    """A conversation has more tokens than a row, and may not be cut."""


class NothingToLearnError(DataError):
    """Every label of a row would be -100."""


@dataclass(frozen=True)
class Sample:
    """One training row; position i of ``labels`` is what follows position i of ``input_ids``.

    Attributes:
        input_ids: (seq_length,) int32, filled up with the pad id on the right.
        labels: (seq_length,) int32, shifted already; -100 where nothing is learnt.
        num_tokens: Positions of ``input_ids`` that are not filling.
        num_trained: Labels that are not -100.
        num_cut: Tokens of the conversation that did not fit.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    num_tokens: int
    num_trained: int
    num_cut: int = 0


class Prompt(NamedTuple):
    """A conversation to encode.

    Attributes:
        messages: The conversation.
        tools: Tool schemas.
        where: File and line, for messages.
        text: Plain text instead of a conversation; it is laid out between ``[gMASK]<sop>`` and
            ``<|endoftext|>``, and all of it is learnt.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    where: str = ""
    text: str = ""


def encode_conversation(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    seq_length: int,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    truncate: bool = True,
    where: str = "",
    text: str = "",
) -> Sample:
    """Return the training row of a conversation.

    Args:
        tokenizer: Renders and encodes.
        messages: The conversation.
        seq_length: Length of the row (tokens); the conversation is laid out on one more.
        tools: Tool schemas.
        truncate: Cut a longer conversation at its end; False raises instead.
        where: File and line, for messages.
        text: Plain text instead of ``messages``, see ``Prompt``.

    Raises:
        TooLongError: If the conversation is longer and ``truncate`` is False.
        NothingToLearnError: If no label is left (no answer, or all of it cut away).
        DataError: If the conversation cannot be rendered or encoded.
    """
    prompt = Prompt(messages, tools, where, text)
    rows, (error,) = encode_conversations(
        tokenizer, [prompt], seq_length, too_long="truncate" if truncate else "error"
    )
    if error is not None:
        raise error
    return Sample(
        _filled(rows.input_ids, seq_length, tokenizer.pad_token_id),
        _filled(rows.labels, seq_length, IGNORED_LABEL),
        int(rows.num_tokens[0]),
        int(rows.num_trained[0]),
        int(rows.num_cut[0]),
    )


def encode_conversations(
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    seq_length: int,
    *,
    too_long: TooLong = "truncate",
    train_on: TrainOn = "all",
    keeps_unlearnt: bool = False,
) -> tuple[EncodedRows, list[DataError | None]]:
    """Return the training rows of conversations, and for each conversation why it has none.

    Args:
        tokenizer: Renders and encodes.
        prompts: The conversations.
        seq_length: Length of a row (tokens).
        too_long: What becomes of longer conversations: ``truncate`` cuts them at their end, ``split``
            makes several rows of them, anything else gives them a TooLongError.
        train_on: Whether all of an assistant's turns are learnt, or the last one; always the last in a
            family without role tokens (ChatGLM2), as its own training did.
        keeps_unlearnt: Keep rows without a label, which teach nothing.

    Returns:
        The rows of the conversations that have some, in order; and an entry for every conversation:
        None, or what ``encode_conversation`` raises.
    """
    built, lengths, answers, errors = _built(tokenizer, prompts)
    is_owned = (
        owned_by_roles(built, lengths, tokenizer.special_tokens, train_on)
        if answers is None
        else owned_at_end(lengths, answers)
    )
    is_text = [bool(each.text) for each, error in zip(prompts, errors, strict=True) if not error]
    if any(is_text):
        is_owned = with_texts(is_owned, lengths, np.array(is_text))
    labels = shifted_labels(built, lengths, is_owned)
    form = split_rows if too_long == "split" else cut_rows
    rows = form(built, labels, lengths, seq_length)
    is_refused = (rows.num_cut > 0) & (too_long not in ("truncate", "split"))
    kept = ((rows.num_trained > 0) | keeps_unlearnt) & ~is_refused
    places = np.array(
        [place for place, error in enumerate(errors) if error is None], dtype=np.int64
    )
    without = np.bincount(rows.sources, weights=kept, minlength=len(places)) == 0
    first_rows = np.searchsorted(rows.sources, np.flatnonzero(without))
    for source, row in zip(np.flatnonzero(without), first_rows, strict=True):
        place = int(places[source])
        where = prompts[place].where
        errors[place] = (
            _too_long(int(lengths[source]), seq_length, where)
            if is_refused[row]
            else _nothing_to_learn(int(rows.num_cut[row]), seq_length, where)
        )
    return replace(rows.only(kept), sources=places[rows.sources[kept]]), errors


def _built(
    tokenizer: Tokenizer, prompts: Sequence[Prompt]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, list[DataError | None]]:
    """Return the ids of conversations one after another, the tokens of each, and why one has none.

    Third are the tokens of each one's last answer, where the family has no role tokens to tell by, else None.
    """
    errors: list[DataError | None] = []
    ids: list[int] = []
    ends: list[int] = []
    answers: list[int] = []  # tokens of each row's last message
    special = tokenizer.special_tokens
    before, end_of_text = (
        next((name for name in names if name in special), "")
        for names in (_BEFORE_TEXT, _END_OF_TEXT)
    )
    has_roles = ANSWER in special
    for prompt in prompts:
        try:
            if prompt.text:
                segments: Any = [(_BEGIN, True), (before, True), (prompt.text, False)]
            else:
                segments = tokenizer.render(prompt.messages, prompt.tools)
            ids += tokenizer.encode_segments(segments)
            if not has_roles:
                answers.append(
                    0 if prompt.text else _answer_tokens(tokenizer, prompt.messages, segments)
                )
        except TokenizerError as error:
            errors.append(data_error(error, prompt.where))
            continue
        ids.append(special[end_of_text if prompt.text else tokenizer.closing_token])
        ends.append(len(ids))
        errors.append(None)
    built = np.array(ids, dtype=np.int32), np.diff(np.array([0, *ends], dtype=np.int64))
    return *built, None if has_roles else np.array(answers, dtype=np.int64), errors


def _answer_tokens(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], segments: Any
) -> int:
    """Return the length of a last answer, which is a segment of its own; 0 where there is none."""
    is_answer = messages[-1].get("role") == "assistant"
    return len(tokenizer.encode_segments(segments[-1:])) if is_answer else 0


def _too_long(num_tokens: int, seq_length: int, where: str) -> TooLongError:
    return TooLongError(
        f"the conversation has {num_tokens} tokens",
        where=where,
        allowed=f"at most {seq_length + 1} (seq_length {seq_length} and the last label)",
        fix="raise seq_length, or let too_long be truncate, split or drop",
    )


def _nothing_to_learn(num_cut: int, seq_length: int, where: str) -> NothingToLearnError:
    reason = f"the answer begins after token {seq_length}" if num_cut else "there is no answer"
    return NothingToLearnError(
        f"every label would be {IGNORED_LABEL}: {reason}",
        where=where,
        fix="raise seq_length" if num_cut else "add an assistant message with content",
    )


def _filled(values: np.ndarray, length: int, fill: int) -> np.ndarray:
    row = np.full(length, fill, dtype=np.int32)
    row[: len(values)] = values
    return row
