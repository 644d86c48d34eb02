"""Give a network adapters, find them, and merge them into its weights."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindformers.checkpoint.quantized import BITS, usual_group
from mindformers.config.pet import (
    DEFAULT_TARGETS,
    LORA_A,
    LORA_B,
    AnyPet,
    LoraSection,
    Ptuning2Section,
    Targets,
    bind_pet,
    fits_end,
    matches,
)
from mindformers.errors import ConfigError, did_you_mean
from mindformers.logger import logger
from mindformers.modules.linear import Linear
from mindformers.modules.lora import LoraLinear, build_lora, new_draw, start_of_a
from mindformers.modules.rounded_linear import RoundedLinear
from mindformers.ops.dropout import HashedDropout, HostDropout, as_int32
from mindformers.parallel.mesh import mesh
from mindformers.pet.adapter_layout import Adapter
from mindformers.pet.pet_config import LoraConfig, Ptuning2Config, note_settings
from mindformers.pet.prefix import add_prefix, prefix_parameters


def get_pet_model(
    base_model: Any, pet_config: LoraConfig | Ptuning2Config | AnyPet | Mapping[str, Any]
) -> Any:
    """Give a network adapters in its linear layers, or a prefix, and freeze everything else.

    Args:
        base_model: The network; it is changed in place.
        pet_config: Settings of LoRA or of P-tuning v2.

    Returns:
        The network.

    Raises:
        ConfigError: If a setting cannot be used, no layer matches, or there are adapters already.
    """
    settings = bind_pet(pet_config)
    if lora_layers(base_model):
        raise ConfigError(
            "the network has adapters already",
            where="get_pet_model",
            fix="merge them first: merge_adapter(network)",
        )
    if isinstance(settings, Ptuning2Section):
        return add_prefix(base_model, settings)
    if prefix_parameters(base_model):
        raise ConfigError("the network has a trained prefix", where="get_pet_model")
    if settings.base_quantization:
        round_layers(base_model, settings.base_quantization)
    chosen = _chosen_layers(base_model, settings)
    starts = _starts(base_model, settings, chosen)
    for parameter in base_model.get_parameters():
        parameter.requires_grad = False
    cells = dict(base_model.cells_and_names())
    draw = new_draw()
    for path, base in chosen.items():
        salt = zlib.crc32(path.encode())
        layer = build_lora(base, settings.for_layer(path), draw, salt, starts[path])
        put_in_place(cells, path, layer)
        layer.mindpet_delta_lora_a.name, layer.mindpet_delta_lora_b.name = (
            f"{path}.{LORA_A}",
            f"{path}.{LORA_B}",
        )
    note_settings(base_model, settings)
    trained = sum(parameter.size for parameter in base_model.trainable_params())
    logger.info("LoRA: %d layers, %s trained parameters", len(chosen), f"{trained:,}")
    return base_model


def _starts(
    network: Any, settings: LoraSection, layers: Mapping[str, Linear | RoundedLinear]
) -> dict[str, np.ndarray]:
    """Return this process's part of every A, which follows from the seed and the layer's name, not the layout."""
    seed = ms.get_seed()
    parts = {} if mesh().layout.is_single else network.weight_parts()
    found = {}
    for path, layer in layers.items():
        columns, own = layer.in_channels, None
        if parts:
            weight = parts[f"{path}.weight"]
            columns, own = weight.shape[1], weight.parts[0].columns
        entropy = None if seed is None else [seed, zlib.crc32(path.encode())]
        whole = start_of_a(settings.for_layer(path), columns, np.random.default_rng(entropy))
        found[path] = np.ascontiguousarray(whole[:, slice(*(own or (None, None)))])
    return found


def round_layers(network: Any, kind: Literal["int8", "int4"]) -> None:
    """Hold the weights of a network's layers in few bits from now on; those that are so already stay."""
    fixed = getattr(network, "layers_without_adapter", ())
    parts = {} if mesh().layout.is_single else network.weight_parts()
    cells = dict(network.cells_and_names())
    for path, layer in cells.items():
        if isinstance(layer, Linear) and path not in fixed:
            columns = parts[f"{path}.weight"].shape[1] if parts else layer.in_channels
            group = usual_group(BITS[kind], {columns})
            put_in_place(cells, path, RoundedLinear.of(layer, kind, path, group))


def lora_layers(network: nn.Cell) -> dict[str, LoraLinear]:
    """Return the layers that have adapters, by their full names."""
    return {name: cell for name, cell in network.cells_and_names() if isinstance(cell, LoraLinear)}


def adapter_parameters(network: nn.Cell) -> list[Parameter]:
    """Return A and B of every layer that has them, or what a prefix is made of, in the network's order."""
    return [*prefix_parameters(network).values()] or [
        parameter
        for layer in lora_layers(network).values()
        for parameter in (layer.mindpet_delta_lora_a, layer.mindpet_delta_lora_b)
    ]


def fill_adapters(network: nn.Cell, adapters: Mapping[str, Adapter]) -> None:
    """Give every layer with an adapter its A and B."""
    for name, layer in lora_layers(network).items():
        low, high = (np.ascontiguousarray(each, np.float32) for each in adapters[name][:2])
        layer.mindpet_delta_lora_a.set_data(Tensor(low))
        layer.mindpet_delta_lora_b.set_data(Tensor(high))


def adapter_ranks(network: nn.Cell) -> dict[str, int]:
    """Return the rank of every layer that has an adapter."""
    layers = lora_layers(network).items()
    return {name: each.mindpet_delta_lora_a.shape[0] for name, each in layers}


def draw_dropout(network: nn.Cell, step: int, part: int) -> None:
    """Let dropout choose other elements than before: which follows from the seed and these numbers alone.

    Args:
        network: The network.
        step: Finished updates of the run.
        part: Micro batch of the step.
    """
    for _, cell in network.cells_and_names():
        if isinstance(cell, (HashedDropout, HostDropout)):
            text = f"{ms.get_seed() or 0} {step} {part}"
            draw = as_int32(zlib.crc32(text.encode()))
            cell.draw.set_data(Tensor([draw], ms.int32))
            return  # they share it


def put_in_place(cells: Mapping[str, nn.Cell], path: str, layer: nn.Cell) -> None:
    """Put a layer where another is; the names of its parameters stay as they are."""
    names = {id(parameter): parameter.name for parameter in layer.get_parameters()}
    owner, _, attribute = path.rpartition(".")
    setattr(cells[owner], attribute, layer)  # puts the attribute before the names
    for parameter in layer.get_parameters():
        parameter.name = names[id(parameter)]


def _chosen_layers(network: nn.Cell, settings: LoraSection) -> dict[str, Linear | RoundedLinear]:
    fixed = getattr(network, "layers_without_adapter", ())
    layers = {
        name: cell
        for name, cell in network.cells_and_names()
        if isinstance(cell, (Linear, RoundedLinear)) and name not in fixed
    }
    names = _layer_names(network, layers)
    targets = DEFAULT_TARGETS if settings.target_modules is None else settings.target_modules
    _require_matches(targets, names, "pet_config.target_modules")
    excluded: Targets = settings.exclude_layers or []
    _require_matches(excluded, names, "pet_config.exclude_layers")
    chosen = {
        name: layer
        for name, layer in layers.items()
        if matches(targets, name) and not (excluded and matches(excluded, name))
    }
    _require_patterns(settings, chosen if len(names) == len(layers) else names)
    if not chosen and len(names) > len(layers):
        raise ConfigError(
            f"pipeline stage {mesh().layout.stage} has no layer with an adapter",
            where="pet_config.target_modules", allowed="a layer of every stage", fix="fewer stages",
        )  # fmt: skip
    if not chosen:
        raise ConfigError(
            "leaves out every layer that target_modules matches", where="pet_config.exclude_layers"
        )
    return chosen


def _layer_names(network: Any, held: Iterable[str]) -> list[str]:
    """Return the names of the linear layers of the whole network, of which this process may hold some."""
    if mesh().layout.pipeline == 1:
        return list(held)
    ends = {name.rpartition(".")[2] for name in held}
    names = [each.name.removesuffix(".weight") for each in network.layout_tensors()]
    return [name for name in names if name.rpartition(".")[2] in ends]


def _require_patterns(settings: LoraSection, names: Iterable[str]) -> None:
    """Refuse an entry of a pattern that no layer with an adapter fits."""
    for field in ("rank_pattern", "alpha_pattern"):
        for key in getattr(settings, field):
            if not any(fits_end(key, name) for name in names):
                raise ConfigError(
                    f"{key!r} is no layer with an adapter", where=f"pet_config.{field}",
                    allowed=", ".join(sorted({name.rpartition(".")[2] for name in names})),
                )  # fmt: skip


def _require_matches(targets: Targets, names: Iterable[str], where: str) -> None:
    """Refuse an expression, or an entry of a list, that no layer's name fits."""
    ends = sorted({name.rpartition(".")[2] for name in names})
    for each in [targets] if isinstance(targets, str) else targets:
        if not any(matches(targets if each is targets else [each], name) for name in names):
            word = re.findall(r"\w{2,}", each)
            raise ConfigError(
                f"{each!r} matches no linear layer",
                where=where,
                allowed=", ".join(ends),
                fix=did_you_mean(word[-1], ends) if word else "",
            )
