"""What each optimizer keeps for a parameter, as shapes: the optimizers build it, a plan counts it.

Needs no MindSpore.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Shape = tuple[int, ...]

_ENDS = ("embedding", "output_layer")  # tables of tokens: Muon leaves them to AdamW


def slot_shapes(
    kind: str, name: str, shape: Sequence[int], options: Mapping[str, Any]
) -> dict[str, Shape]:
    """Return the float32 state of one parameter; a float32 copy of a shorter type is not counted here.

    Args:
        kind: Name of the optimizer.
        name: Name of the parameter.
        shape: Its axes.
        options: The optimizer's arguments, by their names in a YAML file.

    Returns:
        First part of the tensor's name -> its axes.
    """
    whole = tuple(shape)
    found = _SLOTS[kind](name, whole, options)
    if options.get("ema_decay") is not None:
        found["ema"] = whole
    return found


def is_orthogonalized(name: str, shape: Sequence[int]) -> bool:
    """Tell whether Muon makes a parameter's update orthogonal: a matrix that is no table of tokens."""
    return len(shape) == 2 and not any(end in name for end in _ENDS)


def _adam(_name: str, shape: Shape, _options: Mapping[str, Any]) -> dict[str, Shape]:
    return {"adam_m": shape, "adam_v": shape}


def _sgd(_name: str, shape: Shape, options: Mapping[str, Any]) -> dict[str, Shape]:
    return {"sgd_m": shape} if options.get("momentum") else {}


def _lion(_name: str, shape: Shape, _options: Mapping[str, Any]) -> dict[str, Shape]:
    return {"lion_m": shape}


def _adafactor(_name: str, shape: Shape, options: Mapping[str, Any]) -> dict[str, Shape]:
    if len(shape) < 2:
        found = {"adafactor_v": shape}
    else:
        found = {"adafactor_row": shape[:-1], "adafactor_column": shape[:-2] + shape[-1:]}
    if options.get("beta1") is not None:
        found["adafactor_m"] = shape
    return found


def _muon(name: str, shape: Shape, options: Mapping[str, Any]) -> dict[str, Shape]:
    return {"muon_m": shape} if is_orthogonalized(name, shape) else _adam(name, shape, options)


_SLOTS = {"AdamW": _adam, "SGD": _sgd, "Lion": _lion, "AdaFactor": _adafactor, "Muon": _muon}
