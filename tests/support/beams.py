"""The searches whose results are kept in tests/golden/parity/beams.json; the oracle and the tests read them here."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.golden_model import CASES, CASES_0414, GoldenCase

MANY_ENDS = [3, 17, 29, 41, 58, 66, 83]
SEARCH_CASES: tuple[GoldenCase, ...] = (CASES[1], CASES[3], CASES_0414[2])
# Names and meaning are those of both libraries. Among them: no end at all, ends that come early and often, lengths
# that are favoured and shunned, every way to stop, rules on the scores.
_ANSWERS, _ENDS, _STOP = "num_return_sequences", "eos_token_id", "early_stopping"
SEARCHES: tuple[dict[str, Any], ...] = (
    {"num_beams": 2, "max_new_tokens": 12},
    {"num_beams": 4, "max_new_tokens": 20, _ENDS: [17]},
    {"num_beams": 4, "max_new_tokens": 20, _ENDS: MANY_ENDS},
    {"num_beams": 4, "max_new_tokens": 20, _ENDS: MANY_ENDS, _ANSWERS: 4},
    {"num_beams": 3, "max_new_tokens": 24, _ENDS: MANY_ENDS, _STOP: True, _ANSWERS: 3},
    {"num_beams": 3, "max_new_tokens": 24, _ENDS: MANY_ENDS, _STOP: "never", _ANSWERS: 2},
    {"num_beams": 5, "max_new_tokens": 16, _ENDS: MANY_ENDS, "length_penalty": 2.0, _STOP: "never",
     _ANSWERS: 5},
    {"num_beams": 5, "max_new_tokens": 16, _ENDS: MANY_ENDS, "length_penalty": 0.0, _ANSWERS: 3},
    {"num_beams": 4, "max_new_tokens": 16, _ENDS: MANY_ENDS[:3], "length_penalty": -1.0, _ANSWERS: 4},
    {"num_beams": 4, "max_new_tokens": 16, _ENDS: MANY_ENDS, "min_new_tokens": 6, _ANSWERS: 2},
    {"num_beams": 4, "max_new_tokens": 16, _ENDS: MANY_ENDS, "repetition_penalty": 1.5, _ANSWERS: 2},
    {"num_beams": 3, "max_new_tokens": 16, _ENDS: MANY_ENDS[:2], "bad_words_ids": [[5], [12, 60], [60, 12]],
     _ANSWERS: 3},
    {"num_beams": 10, "max_new_tokens": 1, _ENDS: [17], _ANSWERS: 10},
)  # fmt: skip


def prompts(case: GoldenCase) -> list[list[int]]:
    """Return the prompts of a case, of 5, 1 and 17 tokens."""
    rng = np.random.default_rng(23)
    return [rng.integers(1, case.vocab, length).tolist() for length in (5, 1, 17)]
