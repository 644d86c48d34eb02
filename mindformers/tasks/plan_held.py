"""Tensors of one form that a process of a plan holds. Needs no MindSpore."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Held:
    """Tensors of one form that a process holds.

    Attributes:
        name: Of the first of them.
        shape: Of each, in this process.
        count: How many: one for each layer of the stage.
        type_bytes: Bytes of an element.
        is_trained: It has a gradient and a state in the optimizer.
    """

    name: str
    shape: tuple[int, ...]
    count: int
    type_bytes: float
    is_trained: bool

    @cached_property
    def size(self) -> int:
        """Elements of them all."""
        return math.prod(self.shape) * self.count

    @property
    def is_matrix(self) -> bool:
        """Whether a layer multiplies by it."""
        return len(self.shape) == 2 and self.name.startswith("transformer.encoder")
