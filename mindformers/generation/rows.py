"""One prompt and its growing answer, and the logits kept beside it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mindformers.generation.array import Array
from mindformers.generation.request import Constraint
from mindformers.generation.stopping import LENGTH, STOP_STRING, StopRules, StopTextScanner


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

    def add_step(self, vocab_size: int) -> None:
        """Begin a step: (batch, V) of NaN, which the running rows' logits replace."""
        self.steps.append(np.full((self.batch, vocab_size), np.nan, np.float32))
