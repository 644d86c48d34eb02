"""The order of work on a pipeline stage: one forward, one backward, as soon as the pipeline is full.

Source: PipeDream-Flush, "Memory-Efficient Pipeline-Parallel DNN Training" (1F1B).
"""

from __future__ import annotations

from typing import NamedTuple


class Slot(NamedTuple):
    """A piece of work: the forward or the backward pass of a micro batch."""

    is_forward: bool
    micro_batch: int


def one_forward_one_backward(stage: int, num_stages: int, num_micro_batches: int) -> list[Slot]:
    """Return the slots of a stage in order.

    A stage runs ahead by as many forward passes as stages come after it, so never more than ``num_stages -
    stage`` micro batches are under way on it.
    """
    ahead = min(num_stages - 1 - stage, num_micro_batches)
    slots = [Slot(True, index) for index in range(ahead)]
    for index in range(num_micro_batches - ahead):
        slots += [Slot(True, ahead + index), Slot(False, index)]
    return slots + [
        Slot(False, index) for index in range(num_micro_batches - ahead, num_micro_batches)
    ]
