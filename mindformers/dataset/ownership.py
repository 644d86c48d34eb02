"""Which tokens of a conversation are the assistant's: what follows them is learnt. Loads no MindSpore."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

ANSWER = "<|assistant|>"
ROLE_TOKENS = ("<|system|>", "<|user|>", ANSWER, "<|observation|>")


def owned_at_end(lengths: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Return, (tokens,) bool, after which tokens a row's last answer or its end stands.

    Args:
        lengths: (rows,) tokens of each row, the closing one included.
        answers: (rows,) tokens of each row's last answer, which the closing one follows; 0 for none.
    """
    from_end = np.repeat(np.cumsum(lengths), lengths) - np.arange(int(lengths.sum()))
    # The row ends with the closing token (1); the answer's last token (2) is followed by it.
    return (from_end >= 2) & (from_end <= np.repeat(np.where(answers > 0, answers + 2, 0), lengths))


def owned_by_roles(
    built: np.ndarray, lengths: np.ndarray, special_tokens: Mapping[str, int]
) -> np.ndarray:
    """Return, (tokens,) bool, which tokens belong to an assistant's turn.

    Args:
        built: (tokens,) ids of all rows.
        lengths: (rows,) tokens of each row.
        special_tokens: Ids of the control tokens by their text.
    """
    positions = np.arange(len(built))
    is_role = np.zeros(len(built), dtype=bool)
    for name in ROLE_TOKENS:
        if name in special_tokens:
            is_role |= built == special_tokens[name]
    # A row's own first token stands for "nobody" where it is no role: what is before never counts.
    is_role[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
    # Position of the last role token at or before each token.
    last_role = np.maximum.accumulate(np.where(is_role, positions, 0))
    is_owned: np.ndarray = built[last_role] == special_tokens[ANSWER]
    return is_owned
