"""Which parameters decay: matrices do, biases and norm weights do not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mindspore import Parameter, nn


def decays(parameter: Parameter) -> bool:
    """Tell whether weight decay applies: not to one-dimensional parameters, not to biases."""
    return len(parameter.shape) > 1 and not parameter.name.endswith(".bias")


def get_optimizer_grouped_parameters(
    model: nn.Cell | Iterable[Parameter], weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Split the trainable parameters into those that decay and those that do not.

    Args:
        model: A network, or its parameters.
        weight_decay: Decay of the first group; the second has 0.

    Returns:
        Up to two groups ``{"params": [...], "weight_decay": number}``; an empty one is left out.
    """
    every = model.trainable_params() if isinstance(model, nn.Cell) else model
    trainable = [parameter for parameter in every if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if decays(p)], "weight_decay": float(weight_decay)},
        {"params": [p for p in trainable if not decays(p)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
