"""Groups of parameters: matrices decay, biases and norm weights do not; layers can learn at rates of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from mindspore import Parameter, nn

_LAYER = re.compile(r"\.layers\.(\d+)\.")


def decays(parameter: Parameter) -> bool:
    """Tell whether weight decay applies: not to one-dimensional parameters, not to biases."""
    return len(parameter.shape) > 1 and not parameter.name.endswith(".bias")


def get_optimizer_grouped_parameters(
    model: nn.Cell | Iterable[Parameter],
    weight_decay: float = 0.0,
    lr_scale: Callable[[str], float] | None = None,
) -> list[dict[str, Any]]:
    """Split the trainable parameters into those that decay and those that do not, and by their learning rate.

    Args:
        model: A network, or its parameters.
        weight_decay: Decay of matrices; the others have 0.
        lr_scale: Name of a parameter -> factor on its learning rate; None: 1 for all.

    Returns:
        Groups ``{"params": [...], "weight_decay": number}``, with ``"lr_scale": factor`` where one is given;
        those that decay come first.
    """
    every = model.trainable_params() if isinstance(model, nn.Cell) else model
    trainable = [parameter for parameter in every if parameter.requires_grad]
    groups: dict[tuple[bool, float], list[Parameter]] = {}
    for decaying in (True, False):
        for parameter in trainable:
            if decays(parameter) is decaying:
                factor = lr_scale(parameter.name) if lr_scale else 1.0
                groups.setdefault((decaying, factor), []).append(parameter)
    return [
        {"params": members, "weight_decay": float(weight_decay) if decaying else 0.0}
        | ({"lr_scale": factor} if lr_scale else {})
        for (decaying, factor), members in groups.items()
    ]


def layer_factors(
    num_layers: int, decay: float | None, patterns: Mapping[str, float]
) -> Callable[[str], float] | None:
    """Return the factor on the learning rate of each parameter by its name; None when it is 1 for all.

    Args:
        num_layers: Layers of the whole network.
        decay: Each layer learns this much slower than the next one: the embedding by
            decay ** (num_layers + 1), layer i by decay ** (num_layers - i), final norm and output layer by 1.
            None: all alike.
        patterns: Pattern -> factor; the first that names a parameter counts.
    """
    if decay is None and not patterns:
        return None

    def factor(name: str) -> float:
        depth = 0 if decay is None else _depth(name, num_layers)
        own = next((value for each, value in patterns.items() if fnmatchcase(name, each)), 1.0)
        return float(own * (1.0 if decay is None else decay**depth))

    return factor


def _depth(name: str, num_layers: int) -> int:
    """Return how far below the output layer a parameter is."""
    found = _LAYER.search(name)
    if found:
        return num_layers - int(found.group(1))
    return num_layers + 1 if "embedding" in name else 0


def freeze(network: nn.Cell, is_frozen: Callable[[str], bool]) -> int:
    """Keep parameters as they are in training; return how many were free before."""
    chosen = [each for each in network.trainable_params() if is_frozen(each.name)]
    for parameter in chosen:
        parameter.requires_grad = False
    return len(chosen)
