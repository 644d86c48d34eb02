"""What became of the rows of a data set on their way to token ids. Loads no MindSpore."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mindformers.errors import DataError

_NUM_EXAMPLES = 3


@dataclass
class Tally:
    """What became of the rows.

    Attributes:
        rows_read: Rows found in the input, the faulty ones included.
        rows_written: Rows in the output.
        tokens: Positions of ``input_ids`` that are not filling.
        trained_tokens: Labels that are not -100.
        truncated: Rows cut at seq_length.
        cut_tokens: Tokens lost by cutting.
        split: Conversations that became several rows.
        unlearnt: Rows without a label that were kept.
        dropped: Rows left out, by reason.
        examples: The first few messages about dropped rows, by reason.
    """

    rows_read: int = 0
    rows_written: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    truncated: int = 0
    cut_tokens: int = 0
    split: int = 0
    unlearnt: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, error: DataError) -> None:
        """Count a row that is left out."""
        self.dropped[reason] += 1
        self.examples.setdefault(reason, [])
        if len(self.examples[reason]) < _NUM_EXAMPLES:
            self.examples[reason].append(str(error))

    def add(self, other: Tally) -> None:
        """Add the counts of another tally."""
        for name, value in vars(other).items():
            if isinstance(value, int):
                setattr(self, name, getattr(self, name) + value)
        self.dropped.update(other.dropped)
        for reason, messages in other.examples.items():
            kept = self.examples.setdefault(reason, [])
            kept.extend(messages[: _NUM_EXAMPLES - len(kept)])

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON can hold them."""
        return {**vars(self), "dropped": dict(self.dropped)}

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> Tally:
        """Return the tally that ``as_dict`` gave ``content`` of."""
        return Tally(**{**content, "dropped": Counter(content["dropped"])})

    def advice(self) -> str:
        """Return what to say when no row is left: why the first one is not."""
        first = next((messages[0] for messages in self.examples.values()), "")
        return f"the first one: {first}" if first else "give a file with rows"
