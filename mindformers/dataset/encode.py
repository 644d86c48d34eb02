"""A conversation as one training row: token ids, and labels on what the model has to say.

The rule (GLM-4's own): a token is learnt when the token BEFORE it belongs to an assistant's turn.
So ``<|assistant|>`` is not learnt; the newline after it, the answer, and the role token that
follows the answer are. A ``<|user|>`` is appended after the last turn, so every answer learns to
stop. Who owns a token is told by the last role token at or before it; role tokens come from the
chat template alone, never from text. Loads no MindSpore.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mindformers.config.data import IGNORED_LABEL
from mindformers.dataset.messages import data_error
from mindformers.errors import DataError, TokenizerError

ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_ANSWER, _END = "<|assistant|>", "<|user|>"


class Tokenizer(Protocol):
    """What this file needs of a tokenizer."""

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the control tokens by their text."""

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
    try:
        ids = tokenizer.encode_segments(tokenizer.render(messages, tools))
    except TokenizerError as error:
        raise data_error(error, where) from error
    built, labels = _lay_out(np.asarray(ids, dtype=np.int32), tokenizer.special_tokens)
    num_cut = max(0, len(built) - (seq_length + 1))
    if num_cut and not truncate:
        raise TooLongError(
            f"the conversation has {len(built)} tokens",
            where=where,
            allowed=f"at most {seq_length + 1} (seq_length {seq_length} and the last label)",
            fix="raise --seq_length, or use --too_long truncate or drop",
        )
    input_ids = _filled(built, seq_length + 1, tokenizer.pad_token_id)[:-1]
    labels = _filled(labels, seq_length + 1, IGNORED_LABEL)[1:]
    num_trained = int(np.count_nonzero(labels != IGNORED_LABEL))
    if not num_trained:
        reason = f"the answer begins after token {seq_length}" if num_cut else "there is no answer"
        raise NothingToLearnError(
            f"every label would be {IGNORED_LABEL}: {reason}",
            where=where,
            fix="raise --seq_length" if num_cut else "add an assistant message with content",
        )
    return Sample(input_ids, labels, min(len(built), seq_length), num_trained, num_cut)


def _lay_out(ids: np.ndarray, special_tokens: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids with the closing ``<|user|>`` and their unshifted labels; both (len + 1,)."""
    roles = [special_tokens[name] for name in ROLE_TOKENS if name in special_tokens]
    is_role = np.isin(ids, roles)
    # Position of the last role token at or before each token; before the first one: none owns it.
    last_role = np.maximum.accumulate(np.where(is_role, np.arange(len(ids)), -1))
    owner = np.where(last_role >= 0, ids[last_role], -1)
    built = np.append(ids, np.int32(special_tokens[_END]))
    is_learnt = np.append(False, owner == special_tokens[_ANSWER])
    return built, np.where(is_learnt, built, np.int32(IGNORED_LABEL))


def _filled(values: np.ndarray, length: int, fill: int) -> np.ndarray:
    row = np.full(length, fill, dtype=np.int32)
    row[: len(values)] = values[:length]
    return row
