"""What one training step found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepResult:
    """What one step found.

    Attributes:
        loss: Mean over the trained tokens of all micro batches.
        grad_norm: Global L2 norm of the gradients before clipping.
        overflow: The loss or the norm is not finite; nothing was updated.
        num_tokens: Tokens seen, padding included.
        num_trained_tokens: Tokens with a label.
        bad_micro_batches: Indices of the micro batches whose own loss is not finite.
        is_spike: The norm is above what the step was told to skip; nothing was updated.
        local_norms: Norm of each parameter's gradient, where they are asked for; of several processes
            that of this one's share.
    """

    loss: float
    grad_norm: float
    overflow: bool
    num_tokens: int
    num_trained_tokens: int
    bad_micro_batches: tuple[int, ...] = ()
    is_spike: bool = False
    local_norms: tuple[float, ...] = ()
