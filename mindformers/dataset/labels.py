"""Which tokens are learnt, and how conversations become rows of one length. Loads no MindSpore.

The rule (GLM-4's own): a token is learnt when the token BEFORE it belongs to an assistant's turn.
So ``<|assistant|>`` is not learnt; the newline after it, the answer, and the role token that
follows the answer are. Who owns a token is told by the last role token at or before it; role
tokens come from the chat template alone, never from text. A family without role tokens (ChatGLM2)
learns the last answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mindformers.config.columns import IGNORED_LABEL

ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
ANSWER = "<|assistant|>"

TrainOn = Literal["all", "last"]


@dataclass(frozen=True)
class EncodedRows:
    """Training rows one after another, before they are filled up to their common length.

    Attributes:
        input_ids: (tokens,) int32 of all rows.
        labels: (tokens,) int32 of all rows, shifted.
        num_tokens: (rows,) how many tokens belong to each row.
        num_trained: (rows,) labels of each that are not -100.
        num_cut: (rows,) tokens of each conversation that did not fit.
        sources: (rows,) number of the conversation each row was made of; several rows may share one.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    num_tokens: np.ndarray
    num_trained: np.ndarray
    num_cut: np.ndarray
    sources: np.ndarray

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
            self.sources[kept],
        )


def owned_by_roles(
    built: np.ndarray,
    lengths: np.ndarray,
    special_tokens: Mapping[str, int],
    train_on: TrainOn = "all",
) -> np.ndarray:
    """Return, (tokens,) bool, which tokens belong to an assistant's turn.

    Args:
        built: (tokens,) int32, ids of all conversations, one after another.
        lengths: (conversations,) tokens of each.
        special_tokens: Ids of the control tokens by their text.
        train_on: ``all`` of an assistant's turns are learnt, or the ``last`` one of a conversation.
    """
    positions = np.arange(len(built))
    is_role = np.zeros(len(built), dtype=bool)
    for name in ROLE_TOKENS:
        if name in special_tokens:
            is_role |= built == special_tokens[name]
    # A row's own first token stands for "nobody" where it is no role: what is before never counts.
    starts = np.cumsum(lengths) - lengths
    is_role[starts[lengths > 0]] = True
    # Position of the last role token at or before each token.
    last_role = np.maximum.accumulate(np.where(is_role, positions, 0))
    is_owned: np.ndarray = built[last_role] == special_tokens[ANSWER]
    if train_on == "last":
        answers = np.where(built == special_tokens[ANSWER], positions, -1)
        last_answer = np.maximum.reduceat(answers, starts) if len(starts) else answers
        is_owned &= last_role == np.repeat(last_answer, lengths)
    return is_owned


def owned_at_end(lengths: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Return, (tokens,) bool, before which tokens of conversations stands the last answer or its end.

    Args:
        lengths: (conversations,) tokens of each, the closing one included.
        answers: (conversations,) tokens of the last answer, 0 where there is none.
    """
    from_end = np.repeat(np.cumsum(lengths), lengths) - np.arange(int(lengths.sum()))
    # The row ends with the closing token (1); the answer's last token (2) is followed by it.
    return (from_end >= 2) & (from_end <= np.repeat(np.where(answers > 0, answers + 2, 0), lengths))


def with_texts(is_owned: np.ndarray, lengths: np.ndarray, is_text: np.ndarray) -> np.ndarray:
    """Return ``is_owned`` with every token behind ``<sop>`` learnt in rows that have no turns.

    Args:
        is_owned: (tokens,) bool, by turns.
        lengths: (conversations,) tokens of each.
        is_text: (conversations,) bool, where there are no turns.
    """
    places = _places(lengths)
    is_inside = (places >= 1) & (places < np.repeat(lengths, lengths) - 1)
    return np.where(np.repeat(is_text, lengths), is_inside, is_owned)


def shifted_labels(built: np.ndarray, lengths: np.ndarray, is_owned: np.ndarray) -> np.ndarray:
    """Return what follows each token that is owned by an answer, else -100; (tokens,) int32.

    Args:
        built: (tokens,) int32, ids of all conversations, each ending with a closing token.
        lengths: (conversations,) tokens of each.
        is_owned: (tokens,) bool; changed in place.
    """
    # Nothing follows a row's last token: no label is taken from the row behind.
    is_owned[np.cumsum(lengths)[lengths > 0] - 1] = False
    following = np.append(built[1:], np.int32(IGNORED_LABEL))
    return np.where(is_owned, following, np.int32(IGNORED_LABEL))


def cut_rows(
    built: np.ndarray, labels: np.ndarray, lengths: np.ndarray, seq_length: int
) -> EncodedRows:
    """Return one row of at most ``seq_length`` tokens of each conversation, its beginning.

    The last label lies one token further, so a conversation of one more token is whole.
    """
    num_cut = np.maximum(0, lengths - (seq_length + 1))
    num_tokens = np.minimum(lengths, seq_length)
    if (lengths > seq_length).any():
        fits = _places(lengths) < seq_length
        built, labels = built[fits], labels[fits]
    return _rows(built, labels, num_tokens, num_cut, np.arange(len(lengths)))


def split_rows(
    built: np.ndarray, labels: np.ndarray, lengths: np.ndarray, seq_length: int
) -> EncodedRows:
    """Return as many rows of each conversation as it needs; no label is lost.

    A later row begins where the one before ends, in the middle of what was said.
    """
    pieces = np.maximum(1, -(-(lengths - 1) // seq_length))  # the closing token needs no row
    before = (pieces - 1) * seq_length
    last = np.minimum(lengths - before, seq_length)
    if (before + last < lengths).any():
        fits = _places(lengths) < np.repeat(before + last, lengths)
        built, labels = built[fits], labels[fits]
    num_tokens = np.full(pieces.sum(), seq_length, dtype=lengths.dtype)
    num_tokens[np.cumsum(pieces) - 1] = last
    sources = np.repeat(np.arange(len(lengths)), pieces)
    return _rows(built, labels, num_tokens, np.zeros_like(num_tokens), sources)


def _places(lengths: np.ndarray) -> np.ndarray:
    """Return for every token its place within its conversation."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - np.repeat(starts, lengths)


def _rows(
    ids: np.ndarray,
    labels: np.ndarray,
    num_tokens: np.ndarray,
    num_cut: np.ndarray,
    sources: np.ndarray,
) -> EncodedRows:
    learnt = np.concatenate([[0], np.cumsum(labels != IGNORED_LABEL)])
    ends = np.cumsum(num_tokens)
    num_trained = learnt[ends] - learnt[ends - num_tokens]
    return EncodedRows(ids, labels, num_tokens, num_trained, num_cut, sources)
