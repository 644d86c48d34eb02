"""Adapters on disk in the layout of peft: ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mindformers.checkpoint.json_file import write_json
from mindformers.checkpoint.tensor_io import array_to_write, write_safetensors
from mindformers.config.pet import LoraSection
from mindformers.errors import CheckpointError, ConfigError
from mindformers.logger import logger
from mindformers.parallel.mesh import mesh
from mindformers.pet.adapter_layout import WEIGHT, Adapter, adapters_in_layout
from mindformers.pet.adapter_source import (
    CONFIG_FILE,
    MARK,
    PEFT_PREFIX,
    WEIGHT_FILE,
    holds_prefix,
    read_adapters,
)
from mindformers.pet.identity import base_mark, check_base
from mindformers.pet.lora import fill_adapters, get_pet_model, lora_layers
from mindformers.pet.pet_config import bind_lora
from mindformers.pet.prefix import load_prefix, prefix_parameters, save_prefix

OWN_LAYOUT = "mindformers"


def save_adapter(network: Any, save_directory: str | Path, layout: str | None = None) -> Path:
    """Write a network's adapters as peft reads them; of a prefix, as the original repository names it.

    Args:
        network: The network with adapters.
        save_directory: Made if it is not there.
        layout: Names of the layers: ``glm`` (transformers' GlmForCausalLM; an adapter of the fused
            query_key_value becomes one each of q_proj, k_proj and v_proj, the same product), ``chatglm``
            (the original repositories') or ``mindformers`` (ours); None: ``glm`` where the adapters have
            a counterpart there, else ``mindformers``.

    Returns:
        The folder.

    Raises:
        CheckpointError: If there are no adapters, they have no counterpart in the layout, or the system
            refuses the write.
    """
    folder, layers = Path(save_directory), lora_layers(network)
    has_prefix = bool(prefix_parameters(network))
    if not layers and not has_prefix:
        raise CheckpointError(
            "the network has no adapters", where="save_adapter", fix="see get_pet_model"
        )
    if not mesh().layout.is_single:
        raise CheckpointError(
            "this process holds a share of the adapters", where="save_adapter",
            fix="save a step, and load its folder with load_adapter in one process",
        )  # fmt: skip
    if has_prefix:
        return save_prefix(network, folder)
    own = {name: Adapter(*each.adapter()) for name, each in layers.items()}
    adapters, every = _in_layout(network, own, layout)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = [
        array_to_write(f"{PEFT_PREFIX}{name}.lora_{kind}.weight", array)
        for name, each in adapters.items()
        for kind, array in (("A", each.low), ("B", each.high))
    ]
    write_safetensors(folder / WEIGHT_FILE, tensors, {"format": "pt", MARK: base_mark(network)})
    write_json(folder / CONFIG_FILE, _description(network, adapters, _targets(adapters, every)))
    return folder


def _in_layout(
    network: Any, own: Mapping[str, Adapter], layout: str | None
) -> tuple[dict[str, Adapter], list[str]]:
    """Return the adapters under a layout's names, and the names of all its matrices."""
    source = network.layout_tensors()
    where = f"layout {layout or 'glm'}"
    target = network.layout_tensors(layout or "glm")
    try:
        found = adapters_in_layout(own, source, target, where)
    except CheckpointError:
        if layout is not None:
            raise
        logger.warning("these adapters have no counterpart in transformers' GlmForCausalLM; "
                       "they are saved under our own names")  # fmt: skip
        target = source
        found = adapters_in_layout(own, source, target, OWN_LAYOUT)
    matrices = [each.name for each in target if len(each.shape) == 2]
    return found, [name.removesuffix(WEIGHT) for name in matrices if name.endswith(WEIGHT)]


def _targets(adapters: Mapping[str, Adapter], every: list[str]) -> list[str]:
    """Return the ends of the names where these mean just the adapted layers, else whole names."""
    ends = sorted({name.rpartition(".")[2] for name in adapters})
    meant = {name for name in every if name.rpartition(".")[2] in ends}
    return ends if meant == set(adapters) else sorted(adapters)


def _description(
    network: Any, adapters: Mapping[str, Adapter], targets: list[str]
) -> dict[str, Any]:
    settings = bind_lora(network.config.pet_config)
    ranks, alphas = _patterns(settings, adapters)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": network.weights_source or None,
        "inference_mode": True,
        "r": settings.lora_rank,
        "lora_alpha": _plain(settings.lora_alpha),
        "lora_dropout": settings.lora_dropout,
        "use_rslora": settings.use_rslora,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
    }


def _patterns(
    settings: LoraSection, adapters: Mapping[str, Adapter]
) -> tuple[dict[str, int], dict[str, float]]:
    """Return the ranks and alphas that differ from the settings' own, by the layers' full names."""
    ranks, alphas = {}, {}
    for name, each in adapters.items():
        rank = len(each.low)
        alpha = each.scale * (rank**0.5 if settings.use_rslora else rank)
        if rank != settings.lora_rank:
            ranks[name] = rank
        if not math.isclose(alpha, settings.lora_alpha):
            alphas[name] = _plain(alpha)
    return ranks, alphas


def _plain(alpha: float) -> float:
    return int(alpha) if alpha == int(alpha) else alpha


def load_adapter(network: Any, source: str | Path) -> Any:
    """Fill a network's adapters from a folder in peft's layout or a step of a run; see also ``load_prefix``.

    A network without adapters gets them, with the settings of the file.

    Args:
        network: The network, the weights the adapters were trained on loaded.
        source: The folder.

    Returns:
        The network.

    Raises:
        CheckpointError: If the adapters are damaged, are of layers the network has not, or were trained
            on other weights.
        ConfigError: If the network has adapters with other settings.
    """
    if holds_prefix(source):
        return load_prefix(network, source)
    settings, own = own_adapters(network, source)
    if not lora_layers(network):
        get_pet_model(network, settings)
    _check_layers(network, own, str(source))
    fill_adapters(network, own)
    logger.info("loaded the adapters of %d layers from %s", len(own), source)
    return network


def own_adapters(network: Any, source: str | Path) -> tuple[LoraSection, dict[str, Adapter]]:
    """Read adapters as a network has them: its layers' names, this process's share of them.

    Args:
        network: The network, the weights the adapters were trained on loaded.
        source: A folder in peft's layout or a step of a LoRA run.

    Returns:
        Settings that give a network just these adapters, and these by layer.

    Raises:
        CheckpointError: As of ``load_adapter``.
    """
    found = read_adapters(source)
    names = [f"{layer}{WEIGHT}" for layer in found.adapters]
    stored = network.detect_tensors(names, found.where)
    own = adapters_in_layout(found.adapters, stored, network.layout_tensors(), found.where)
    check_base(network, found.mark, found.where)
    own = own_share(network, own)
    ranks, alphas = _patterns(found.settings, own)
    exact = {"target_modules": list(own), "rank_pattern": ranks, "alpha_pattern": alphas}
    return found.settings.model_copy(update=exact), own


def own_share(network: Any, adapters: Mapping[str, Adapter]) -> dict[str, Adapter]:
    """Return this process's part of whole adapters: A's columns and B's rows as its matrices have them."""
    if mesh().layout.is_single:
        return dict(adapters)
    parts, found = network.weight_parts(), {}
    for name, (low, high, scale) in adapters.items():
        weight = parts.get(f"{name}{WEIGHT}")
        if weight is not None:  # else a layer of another pipeline stage
            rows = [high[part.start : part.start + part.rows] for part in weight.parts]
            columns = slice(*(weight.parts[0].columns or (None, None)))
            found[name] = Adapter(low[:, columns], np.concatenate(rows), scale)
    return found


def _check_layers(network: Any, own: Mapping[str, Adapter], where: str) -> None:
    layers = lora_layers(network)
    if set(layers) != set(own):
        lacking, extra = set(layers) - set(own), set(own) - set(layers)
        raise ConfigError(
            f"{len(lacking)} layers with an adapter are not in it, {len(extra)} of its layers have "
            f"none (first: {min(lacking or extra)})",
            where=where,
            fix="take the pet_config the adapters were trained with",
        )
    for name, layer in layers.items():
        rank, scale = len(own[name].low), own[name].scale
        if layer.mindpet_delta_lora_a.shape[0] != rank or not math.isclose(layer.scale, scale):
            raise ConfigError(
                f"rank {rank} and scale {scale:g}",
                where=f"{where}: {name}",
                allowed=f"rank {layer.mindpet_delta_lora_a.shape[0]} and scale {layer.scale:g}",
                fix="take the pet_config the adapters were trained with",
            )
