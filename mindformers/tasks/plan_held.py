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
        is_partial: Every process of a tensor group holds it whole and has a part of its gradient.
    """

    name: str
    shape: tuple[int, ...]
    count: int
    type_bytes: float
    is_trained: bool
    is_partial: bool = False

    @cached_property
    def size(self) -> int:
        """Elements of them all."""
        return math.prod(self.shape) * self.count

    @property
    def is_matrix(self) -> bool:
        """Whether a layer multiplies by it."""
        return len(self.shape) == 2 and self.is_in_layer

    @property
    def is_in_layer(self) -> bool:
        """Whether every layer of the stage has one; else it is at an end of the network."""
        return self.name.startswith("transformer.encoder.layers")
