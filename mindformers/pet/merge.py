"""Put adapters into the weights and take them out again, and take them off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Tensor

from mindformers.config.pet import LoraSection
from mindformers.errors import CheckpointError
from mindformers.modules.lora import LoraLinear
from mindformers.modules.rounded_linear import RoundedLinear
from mindformers.ops.cast import exact_tensor
from mindformers.pet.adapter_layout import Adapter
from mindformers.pet.lora import fill_adapters, get_pet_model, lora_layers, put_in_place
from mindformers.pet.pet_config import bind_lora, note_settings
from mindformers.pet.prefix import prefix_parameters

_KEPT = "_before_merge"  # attribute of a network whose merge can be undone


@dataclass(frozen=True)
class _Before:
    """What a merge has changed.

    Attributes:
        weights: Layer name -> its weight as it was, bit for bit.
        adapters: Layer name -> its adapter.
        settings: Of the adapters.
    """

    weights: dict[str, np.ndarray]
    adapters: dict[str, Adapter]
    settings: LoraSection


def merge_adapter(network: Any, keep_base: bool = False) -> Any:
    """Add the adapters to the weights, computed in float32, and make it an ordinary network again.

    Every weight may be trained afterwards.

    Args:
        network: The network.
        keep_base: Keep the adapted layers' weights as they were, for ``unmerge_adapter``; takes as much
            memory again as these layers.

    Returns:
        The network.

    Raises:
        CheckpointError: If it has no adapters, or a merged weight is not finite in its type.
    """
    layers = lora_layers(network)
    if not layers:
        is_prefix = (
            "; a trained prefix is no part of the weights" if prefix_parameters(network) else ""
        )
        raise CheckpointError(f"the network has no adapters{is_prefix}", where="merge_adapter")
    if keep_base and any(isinstance(each.base, RoundedLinear) for each in layers.values()):
        raise CheckpointError(
            "weights held in int8 or int4 become plain ones in a merge, which is not undone",
            where="merge_adapter: keep_base", fix="leave it out, and load base and adapter again",
        )  # fmt: skip
    merged = {path: _merged_weight(path, layer) for path, layer in layers.items()}
    if keep_base:
        before = _Before(
            {path: layer.weight.asnumpy().copy() for path, layer in layers.items()},
            {path: _copied(layer) for path, layer in layers.items()},
            bind_lora(network.config.pet_config),
        )
        setattr(network, _KEPT, before)
    _take_off(network, merged)
    return network


def unmerge_adapter(network: Any) -> Any:
    """Undo a merge that kept the base: the weights are bit for bit what they were, the adapters beside them.

    Returns:
        The network.

    Raises:
        CheckpointError: If nothing was merged, or the base was not kept.
    """
    before: _Before | None = getattr(network, _KEPT, None)
    if before is None:
        raise CheckpointError(
            "nothing was merged that could be undone", where="unmerge_adapter",
            fix="merge with merge_adapter(network, keep_base=True), or load the base again",
        )  # fmt: skip
    delattr(network, _KEPT)
    parameters = network.weight_parameters()
    for path, weight in before.weights.items():
        parameter = parameters[f"{path}.weight"]
        parameter.set_data(exact_tensor(weight, parameter.dtype))
    get_pet_model(network, before.settings)
    fill_adapters(network, before.adapters)
    return network


def remove_adapter(network: Any) -> Any:
    """Take the adapters off: the network is its base again, every weight of which may be trained.

    Returns:
        The network.
    """
    _take_off(network, {})
    return network


def _take_off(network: Any, weights: Mapping[str, Tensor]) -> None:
    """Put plain layers in the place of those with adapters and of rounded ones, some with other weights."""
    cells = dict(network.cells_and_names())
    for path, layer in lora_layers(network).items():
        base = layer.base
        if isinstance(base, RoundedLinear):
            base = base.plain()
        if path in weights:
            base.weight.set_data(weights[path])
        put_in_place(cells, path, base)
    for path, layer in cells.items():
        if isinstance(layer, RoundedLinear):
            put_in_place(cells, path, layer.plain())
    for parameter in network.weight_parameters().values():
        parameter.requires_grad = True
    note_settings(network, None)


def _copied(layer: LoraLinear) -> Adapter:
    low, high, scale = layer.adapter()
    return Adapter(low.copy(), high.copy(), scale)


def _merged_weight(path: str, layer: LoraLinear) -> Tensor:
    base = layer.base
    dtype = base.param_dtype if isinstance(base, RoundedLinear) else base.weight.dtype
    merged = Tensor(layer.merged()).astype(dtype)
    if not np.isfinite(merged.asnumpy().astype(np.float32)).all():
        raise CheckpointError(
            f"base and adapter together are not finite in {dtype}", where=f"{path}.weight"
        )
    return merged
