"""A conversation as one training row: token ids, and labels on what the model has to say.

The rule (GLM-4's own): a token is learnt when the token BEFORE it belongs to an assistant's turn.
So ``<|assistant|>`` is not learnt; the newline after it, the answer, and the role token that
follows the answer are. The family's closing token (``<|user|>``; ``</s>`` before GLM-4) is appended
after the last turn, so every answer learns to stop. Who owns a token is told by the last role token
at or before it; role tokens come from the chat template alone, never from text. A family without
role tokens (ChatGLM2) learns the last answer, as its own training did. Loads no MindSpore.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from mindformers.config.columns import IGNORED_LABEL
from mindformers.dataset.messages import data_error
from mindformers.errors import DataError, TokenizerError

ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_ANSWER = "<|assistant|>"


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


@dataclass(frozen=True)
class EncodedRows:
    """Training rows one after another, before they are filled up to their common length.

    Attributes:
        input_ids: (tokens,) int32 of all rows.
        labels: (tokens,) int32 of all rows, shifted.
        num_tokens: (rows,) how many tokens belong to each row.
        num_trained: (rows,) labels of each that are not -100.
        num_cut: (rows,) tokens of each conversation that did not fit.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    num_tokens: np.ndarray
    num_trained: np.ndarray
    num_cut: np.ndarray

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.num_tokens)

    def only(self, kept: np.ndarray) -> EncodedRows:
        """Return the rows for which ``kept``, (rows,) bool, is true."""
        if kept.all():
            return self
        tokens = np.repeat(kept, self.num_tokens)
        return EncodedRows(
            self.input_ids[tokens],
            self.labels[tokens],
            self.num_tokens[kept],
            self.num_trained[kept],
            self.num_cut[kept],
        )


class Prompt(NamedTuple):
    """A conversation to encode.

    Attributes:
        messages: The conversation.
        tools: Tool schemas.
        where: File and line, for messages.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    where: str = ""


def encode_conversation(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    seq_length: int,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    truncate: bool = True,
    where: str = "",
) -> Sample:
    """Return the training row of a conversation.

    Args:
        tokenizer: Renders and encodes.
        messages: The conversation.
        seq_length: Length of the row (tokens); the conversation is laid out on one more.
        tools: Tool schemas.
        truncate: Cut a longer conversation at its end; False raises instead.
        where: File and line, for messages.

    Raises:
        TooLongError: If the conversation is longer and ``truncate`` is False.
        NothingToLearnError: If no label is left (no answer, or all of it cut away).
        DataError: If the conversation cannot be rendered or encoded.
    """
    prompt = Prompt(messages, tools, where)
    rows, (error,) = encode_conversations(tokenizer, [prompt], seq_length, truncate=truncate)
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
    tokenizer: Tokenizer, prompts: Sequence[Prompt], seq_length: int, *, truncate: bool = True
) -> tuple[EncodedRows, list[DataError | None]]:
    """Return the training rows of conversations, and for each conversation why it has none.

    Args:
        tokenizer: Renders and encodes.
        prompts: The conversations.
        seq_length: Length of a row (tokens).
        truncate: Cut longer conversations at their end; False gives them a TooLongError.

    Returns:
        The rows of the conversations that have one, in order; and an entry for every conversation:
        None, or what ``encode_conversation`` raises.
    """
    errors: list[DataError | None] = []
    ids: list[int] = []
    ends: list[int] = []
    answers: list[int] = []  # tokens of each row's last message
    closing = tokenizer.special_tokens[tokenizer.closing_token]
    has_roles = _ANSWER in tokenizer.special_tokens
    for prompt in prompts:
        try:
            segments = tokenizer.render(prompt.messages, prompt.tools)
            ids += tokenizer.encode_segments(segments)
            if not has_roles:
                answers.append(_answer_tokens(tokenizer, prompt.messages, segments))
        except TokenizerError as error:
            errors.append(data_error(error, prompt.where))
            continue
        ids.append(closing)
        ends.append(len(ids))
        errors.append(None)
    lengths = np.diff(np.array([0, *ends], dtype=np.int64))
    built = np.array(ids, dtype=np.int32)
    owned = (
        _owned_by_roles(built, lengths, tokenizer.special_tokens)
        if has_roles
        else _owned_at_end(lengths, np.array(answers, dtype=np.int64))
    )
    rows = _cut(built, _labels(built, lengths, owned), lengths, seq_length)
    kept = np.ones(len(rows), dtype=bool)
    places = [place for place, error in enumerate(errors) if error is None]
    for row in np.flatnonzero((rows.num_trained == 0) | (not truncate) & (rows.num_cut > 0)):
        kept[row] = False
        place, num_cut = places[row], int(rows.num_cut[row])
        where = prompts[place].where
        is_refused = num_cut and not truncate
        errors[place] = (
            _too_long(int(lengths[row]), seq_length, where)
            if is_refused
            else _nothing_to_learn(num_cut, seq_length, where)
        )
    return rows.only(kept), errors


def _answer_tokens(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], segments: Any
) -> int:
    """Return the length of a last answer, which is a segment of its own; 0 where there is none."""
    is_answer = messages[-1].get("role") == "assistant"
    return len(tokenizer.encode_segments(segments[-1:])) if is_answer else 0


def _owned_at_end(lengths: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Return, (tokens,) bool, before which tokens of rows stands the last answer or its end."""
    from_end = np.repeat(np.cumsum(lengths), lengths) - np.arange(int(lengths.sum()))
    # The row ends with the closing token (1); the answer's last token (2) is followed by it.
    return (from_end >= 2) & (from_end <= np.repeat(np.where(answers > 0, answers + 2, 0), lengths))


def _owned_by_roles(
    built: np.ndarray, lengths: np.ndarray, special_tokens: Mapping[str, int]
) -> np.ndarray:
    """Return, (tokens,) bool, which tokens belong to an assistant's turn."""
    positions = np.arange(len(built))
    is_role = np.zeros(len(built), dtype=bool)
    for name in ROLE_TOKENS:
        if name in special_tokens:
            is_role |= built == special_tokens[name]
    # A row's own first token stands for "nobody" where it is no role: what is before never counts.
    is_role[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
    # Position of the last role token at or before each token.
    last_role = np.maximum.accumulate(np.where(is_role, positions, 0))
    is_owned: np.ndarray = built[last_role] == special_tokens[_ANSWER]
    return is_owned


def _labels(built: np.ndarray, lengths: np.ndarray, is_owned: np.ndarray) -> np.ndarray:
    """Return the shifted labels of rows that end with the closing token; (tokens,) int32."""
    # Nothing follows a row's last token: no label is taken from the row behind.
    is_owned[np.cumsum(lengths)[lengths > 0] - 1] = False
    following = np.append(built[1:], np.int32(IGNORED_LABEL))
    return np.where(is_owned, following, np.int32(IGNORED_LABEL))


def _cut(
    built: np.ndarray, labels: np.ndarray, lengths: np.ndarray, seq_length: int
) -> EncodedRows:
    """Return rows of at most ``seq_length`` tokens; the last label lies one token further."""
    num_cut = np.maximum(0, lengths - (seq_length + 1))
    num_tokens = np.minimum(lengths, seq_length)
    starts = np.cumsum(lengths) - lengths
    if (lengths > seq_length).any():
        fits = np.arange(len(built)) - np.repeat(starts, lengths) < seq_length
        built, labels = built[fits], labels[fits]
    learnt = np.concatenate([[0], np.cumsum(labels != IGNORED_LABEL)])
    ends = np.cumsum(num_tokens)
    num_trained = learnt[ends] - learnt[ends - num_tokens]
    return EncodedRows(built, labels, num_tokens, num_trained, num_cut)


def _too_long(num_tokens: int, seq_length: int, where: str) -> TooLongError:
    return TooLongError(
        f"the conversation has {num_tokens} tokens",
        where=where,
        allowed=f"at most {seq_length + 1} (seq_length {seq_length} and the last label)",
        fix="raise --seq_length, or use --too_long truncate or drop",
    )


def _nothing_to_learn(num_cut: int, seq_length: int, where: str) -> NothingToLearnError:
    reason = f"the answer begins after token {seq_length}" if num_cut else "there is no answer"
    return NothingToLearnError(
        f"every label would be {IGNORED_LABEL}: {reason}",
        where=where,
        fix="raise --seq_length" if num_cut else "add an assistant message with content",
    )


def _filled(values: np.ndarray, length: int, fill: int) -> np.ndarray:
    row = np.full(length, fill, dtype=np.int32)
    row[: len(values)] = values
    return row
