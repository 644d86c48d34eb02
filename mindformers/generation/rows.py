"""One prompt and its growing answer, and the logits kept beside it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mindformers.generation.array import Array
from mindformers.generation.request import Constraint
from mindformers.generation.stopping import LENGTH, STOP_STRING, StopRules, StopTextScanner

MOST_FAILED = 4  # guesses in a row after which the pause no longer grows


@dataclass
class Row:
    """One prompt and its growing answer."""

    index: int
    buffer: Array  # (limit,) int32
    length: int
    prompt_length: int
    generator: np.random.Generator | None
    scanner: StopTextScanner | None
    constraint: Constraint | None = None
    finish_reason: str = ""
    num_drafted: int = 0
    num_accepted: int = 0
    draft_length: int = 0  # tokens worth guessing next time
    num_failed: int = 0  # guesses in a row that were wrong from the first token on
    draft_from: int = 0  # length from which guessing is worth it again

    @property
    def ids(self) -> Array:
        """Prompt and answer so far, (length,) int32."""
        return self.buffer[: self.length]

    def accept(self, token: int, rules: StopRules) -> list[int]:
        """Append ``token`` and see whether the answer ends; return the ids that can be shown."""
        self.buffer[self.length] = token
        self.length += 1
        self.finish_reason = rules.reason_of(token)
        shown = [token]
        if self.scanner is not None:
            shown = self._scan(self.scanner, token)
        if not self.finish_reason and self.length == len(self.buffer):
            self.finish_reason = LENGTH
            shown += self.scanner.flush() if self.scanner is not None else []
        if self.constraint is not None and not self.finish_reason:
            self.constraint.accept(token)
        return shown

    def next_draft(self) -> int:
        """Return how many tokens are worth guessing now."""
        # One token comes without a guess, and the last one of an answer is never read.
        left = len(self.buffer) - self.length - 1
        return max(0, min(self.draft_length, left)) if self.length >= self.draft_from else 0

    def count_draft(self, drafted: int, accepted: int) -> None:
        """Note how many guessed tokens were right, and what is worth guessing from now on.

        Next time twice as many as were right, one at least. After guesses that failed from the first token on,
        twice or more in a row, there are none for 2, 6 and at most 14 tokens: a pass that checks one costs more.
        """
        if not drafted:
            return
        self.num_drafted += drafted
        self.num_accepted += accepted
        self.draft_length = max(1, 2 * accepted)
        self.num_failed = 0 if accepted else min(self.num_failed + 1, MOST_FAILED)
        self.draft_from = self.length + max(0, 2**self.num_failed - 2)

    def _scan(self, scanner: StopTextScanner, token: int) -> list[int]:
        if self.finish_reason:  # an end token is not part of the text
            return [*scanner.flush(), token]
        shown = scanner.put(token)
        if scanner.is_matched:
            self.finish_reason = STOP_STRING
        return shown


@dataclass
class StepRecord:
    """Logits of every step, kept only when asked for."""

    batch: int
    steps: list[Array] = field(default_factory=list)

    def put(self, step: int, row: int, values: Array) -> None:
        """Keep the logits (V,) of a row's answer token ``step``; rows that never get there hold NaN."""
        if step == len(self.steps):
            self.steps.append(np.full((self.batch, len(values)), np.nan, np.float32))
        self.steps[step][row] = values
