"""P-tuning v2: give a network a trained prefix, save it and load it.

On disk are the original repository's names (``transformer.prefix_encoder.embedding.weight``). Shapes tell the
settings; ``adapter_config.json`` beside them says which weights the prefix was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindspore import Tensor

from mindformers.checkpoint.json_file import write_json
from mindformers.checkpoint.tensor_io import array_to_write, write_safetensors
from mindformers.config.pet import PREFIX, Ptuning2Section
from mindformers.errors import ConfigError
from mindformers.logger import logger
from mindformers.pet.adapter_source import CONFIG_FILE, MARK, WEIGHT_FILE
from mindformers.pet.identity import base_mark, check_base
from mindformers.pet.pet_config import note_settings
from mindformers.pet.prefix_source import PrefixSource, read_prefix

_TRAINED = (f"{PREFIX}embedding.", f"{PREFIX}trans.")  # beside them is what dropout follows from


def prefix_parameters(network: Any) -> dict[str, Any]:
    """Return the parameters of a network's trained prefix by name; none where it has no prefix."""
    return {p.name: p for p in network.get_parameters() if p.name.startswith(_TRAINED)}


def add_prefix(network: Any, settings: Ptuning2Section) -> Any:
    """Give a network a prefix and freeze everything else.

    Args:
        network: The network, with ``attach_prefix``; it is changed in place.
        settings: Length, projection and dropout.

    Returns:
        The network.

    Raises:
        ConfigError: If it has a prefix already, or cannot have one.
    """
    if prefix_parameters(network):
        raise ConfigError("the network has a prefix already", where="get_pet_model")
    for parameter in network.get_parameters():
        parameter.requires_grad = False
    network.attach_prefix(settings)
    note_settings(network, settings)
    trained = sum(parameter.size for parameter in network.trainable_params())
    logger.info(
        "P-tuning v2: %d positions, %s trained parameters", settings.pre_seq_len, f"{trained:,}"
    )
    return network


def save_prefix(network: Any, folder: Path) -> Path:
    """Write a network's prefix into ``folder``, made if it is not there; return it.

    Raises:
        CheckpointError: If the system refuses the write.
    """
    settings = network.config.pet
    folder.mkdir(parents=True, exist_ok=True)
    tensors = [
        array_to_write(name, parameter.asnumpy())
        for name, parameter in prefix_parameters(network).items()
    ]
    write_safetensors(folder / WEIGHT_FILE, tensors, {"format": "pt", MARK: base_mark(network)})
    description = {"base_model_name_or_path": network.weights_source or None}
    write_json(folder / CONFIG_FILE, {**settings.model_dump(), **description})
    return folder


def load_prefix(network: Any, source: str | Path) -> Any:
    """Fill a network's prefix from a folder, or a step of a P-tuning run.

    A network without a prefix gets one of the stored size; one that is a share of a network takes its part.

    Returns:
        The network.

    Raises:
        CheckpointError: If the prefix is damaged, was trained on other weights, or is another network's.
        ConfigError: If the network has a prefix of another size.
    """
    found = read_prefix(source)
    check_base(network, found.mark, found.where)
    if not prefix_parameters(network):
        add_prefix(network, found.settings)
    parts = network.prefix_parts()
    _check_shapes({name: part.shape for name, part in parts.items()}, found)
    for name, parameter in prefix_parameters(network).items():
        parameter.set_data(Tensor(parts[name].cut(found.tensors[name])))
    logger.info("loaded a prefix of %d positions from %s", found.settings.pre_seq_len, found.where)
    return network


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], found: PrefixSource) -> None:
    stored = {name: each.shape for name, each in found.tensors.items()}
    for name in sorted({*shapes, *stored}):
        if shapes.get(name) != stored.get(name):
            raise ConfigError(
                f"{name} is {stored.get(name, 'not there')}",
                where=found.where,
                allowed=f"{shapes[name]}" if name in shapes else "no such weight",
                fix="take the network and the pet_config the prefix was trained with",
            )
