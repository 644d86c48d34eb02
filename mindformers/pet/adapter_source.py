"""Reading adapters: a folder in peft's layout, or a step of a LoRA run. Needs no MindSpore."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindformers.checkpoint.dtypes import is_finite, not_finite
from mindformers.checkpoint.json_file import read_json
from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.manifest import committed_steps
from mindformers.checkpoint.step_format import MANIFEST_NAME, read_manifest
from mindformers.checkpoint.weight_source import WeightSource
from mindformers.config.pet import LORA_A, PREFIX, LoraSection
from mindformers.errors import CheckpointError
from mindformers.pet.adapter_layout import Adapter
from mindformers.pet.pet_config import bind_lora

CONFIG_FILE, WEIGHT_FILE = "adapter_config.json", "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."  # peft's wrappers around the network
BASE, MARK = (
    "adapter_base",
    "adapter_base_mark",
)  # what a step, or a file's header, says of the base
_THEIRS = re.compile(re.escape(PEFT_PREFIX) + r"(.+)\.lora_([AB])(?:\.\w+)?\.weight")
_OURS = re.compile(rf"(.+)\.{LORA_A[:-1]}([ab])")
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": (None, "none"),
    "use_dora": (None, False),
    "lora_bias": (None, False),
    "fan_in_fan_out": (None, False),
    "modules_to_save": (None, []),
}


@dataclass(frozen=True)
class AdapterSource:
    """Adapters as they are stored.

    Attributes:
        where: Where they were found, for messages.
        adapters: Layer name, in the layout they were saved in -> its adapter, float32.
        settings: Rank, alpha and the like.
        base: Path of the weights they were trained on; may be empty.
        mark: The mark of those weights (see ``base_mark``); None: not known.
    """

    where: str
    adapters: dict[str, Adapter]
    settings: LoraSection
    base: str
    mark: str | None


def holds_adapters(source: str | Path) -> bool:
    """Tell whether a path holds adapters, or a prefix, and no whole network; what cannot be opened holds none."""
    try:
        with open_weights(source, verify=False) as weights:
            names = list(weights.tensors)
    except CheckpointError:
        return False
    return all(_THEIRS.fullmatch(name) or _OURS.fullmatch(name) for name in names) or _are_prefix(
        names
    )


def holds_prefix(source: str | Path) -> bool:
    """Tell whether a path holds a trained prefix and nothing else.

    Raises:
        CheckpointError: If it cannot be opened.
    """
    with open_weights(source, verify=False) as weights:
        return _are_prefix(list(weights.tensors))


def prefix_beside(source: str | Path) -> Path | None:
    """Return the file of a trained prefix that lies beside the weights of a model directory, or None.

    Raises:
        CheckpointError: If there is a file of that name which cannot be opened.
    """
    beside = Path(source) / WEIGHT_FILE
    return beside if beside.is_file() and holds_prefix(beside) else None


def _are_prefix(names: Sequence[str]) -> bool:
    return bool(names) and all(name.startswith(PREFIX) for name in names)


def read_adapters(source: str | Path) -> AdapterSource:
    """Read adapters.

    Raises:
        CheckpointError: If they are damaged, incomplete, or of a kind that is not implemented.
    """
    with open_weights(source) as weights:
        pairs: dict[str, dict[str, np.ndarray]] = {}
        for name in weights.tensors:
            found = _THEIRS.fullmatch(name) or _OURS.fullmatch(name)
            if found is None:
                raise CheckpointError(f"{name} is no part of an adapter", where=str(source))
            pairs.setdefault(found[1], {})[found[2].upper()] = _read(weights, name)
        alone = [layer for layer, pair in pairs.items() if len(pair) < 2]
        if alone or not pairs:
            raise CheckpointError(
                f"A or B of {alone[0]} is missing" if alone else "is empty", where=str(source)
            )
        settings = _settings(weights)
        adapters = {
            layer: _adapter(layer, pair, settings, str(source)) for layer, pair in pairs.items()
        }
        return AdapterSource(str(source), adapters, settings, *base_and_mark(Path(source), weights))


def _adapter(
    layer: str, pair: Mapping[str, np.ndarray], settings: LoraSection, where: str
) -> Adapter:
    """Return a layer's adapter, its rank as the settings have it."""
    own = settings.for_layer(layer)
    if len(pair["A"]) != own.lora_rank:
        raise CheckpointError(
            f"A has {len(pair['A'])} rows", where=f"{where}: {layer}",
            allowed=f"{own.lora_rank}, by the rank in the settings beside it",
        )  # fmt: skip
    return Adapter(pair["A"], pair["B"], own.scale)


def base_of(source: str | Path) -> str:
    """Return the path of the weights that adapters were trained on; empty where it is not known."""
    with open_weights(source, verify=False) as weights:
        return base_and_mark(Path(source), weights)[0]


def existing_base(config: Any, source: str | Path) -> Path:
    """Return where the weights that adapters were trained on lie.

    Args:
        config: The network's settings; its ``checkpoint_name_or_path`` goes before what the adapters say.
        source: The adapters.

    Raises:
        CheckpointError: If that is not known, or nothing is there.
    """
    base = config.checkpoint_name_or_path or base_of(source)
    if not base or not Path(base).exists():
        raise CheckpointError(
            f"the weights these adapters were trained on are not at {base!r}"
            if base
            else "nothing says which weights these adapters were trained on",
            where=str(source),
            fix="set model.model_config.checkpoint_name_or_path to the folder of those weights",
        )
    return Path(base)


def _read(weights: WeightSource, name: str) -> np.ndarray:
    array = np.asarray(weights.read(name)).astype(np.float32)
    if array.ndim != 2 or not is_finite(array):
        raise not_finite(weights.where(name))
    return array


def _settings(weights: WeightSource) -> LoraSection:
    path = weights.folder / CONFIG_FILE
    if path.is_file():
        return _from_peft(read_json(path), str(path))
    content = weights.config() or {}
    if not isinstance(content.get("pet_config"), Mapping):
        raise CheckpointError(
            "nothing says with which settings the adapters were trained",
            where=str(weights.path),
            fix=f"give the folder with {CONFIG_FILE}, or a step folder",
        )
    return bind_lora(content["pet_config"])


def _from_peft(content: Mapping[str, Any], where: str) -> LoraSection:
    """Return our settings for an ``adapter_config.json``."""
    if content.get("peft_type") != "LORA":
        raise CheckpointError(
            f"peft_type {content.get('peft_type')!r}", where=where, allowed="'LORA'"
        )
    for key, allowed in _PLAIN.items():
        if content.get(key) not in allowed:
            raise CheckpointError(
                f"{key} {content[key]!r} is not implemented", where=where, allowed=repr(allowed[-1])
            )
    return bind_lora(
        {
            "lora_rank": content.get("r", 8),
            "lora_alpha": content.get("lora_alpha", 8),
            "lora_dropout": content.get("lora_dropout", 0.0),
            "use_rslora": bool(content.get("use_rslora")),
            "rank_pattern": content.get("rank_pattern") or {},
            "alpha_pattern": content.get("alpha_pattern") or {},
        }
    )


def base_and_mark(source: Path, weights: WeightSource) -> tuple[str, str | None]:
    """Return path (may be empty) and mark (None: not known) of the weights that adapters belong to."""
    step = weights.folder if (weights.folder / MANIFEST_NAME).is_file() else source
    newest = [step, *committed_steps(step)][-1] if step.is_dir() else step
    if (newest / MANIFEST_NAME).is_file():
        info = read_manifest(newest).info
        return str(info.get(BASE) or ""), info.get(MARK)
    marks = [file.metadata[MARK] for file in weights.files if MARK in file.metadata]
    path = weights.folder / CONFIG_FILE
    content = read_json(path) if path.is_file() else {}
    return str(content.get("base_model_name_or_path") or ""), marks[0] if marks else None
