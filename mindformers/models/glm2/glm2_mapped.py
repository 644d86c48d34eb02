"""A network's weights where they lie on disk: mapped files under our parameters' names, no copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mindformers.checkpoint.dtypes import WEIGHT_TYPES
from mindformers.checkpoint.keymap import Rows, plan_tensor
from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.mapped import MappedTensor, can_be_mapped, map_files, require_finite
from mindformers.checkpoint.quantized_files import VALUES
from mindformers.checkpoint.weight_source import WeightSource
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_weights import layout_named, map_weights, stored_tensors


def mapped_weights(
    source: str | Path, config: ChatGLM2Config, verify: bool = True
) -> dict[str, tuple[MappedTensor, ...]] | None:
    """Map the weights of a network, from any layout that ``load_pretrained`` reads.

    Args:
        source: A Hugging Face directory, a directory we saved, a step folder, one ``.safetensors``.
        config: The network's settings; ``qkv_concat`` and ``mlp_concat`` choose our names.
        verify: Check sha256 where a manifest has them, and refuse NaN and Inf; both read every byte.

    Returns:
        Our name -> the tensors whose rows, one below the other, are the parameter: one where the file
        keeps it in one piece, three where it keeps query, key and value apart. Of a quantized one also
        ``<name>.scales`` and ``<name>.zeros``. None when the source is readable but not in place
        (``.ckpt``, another element type than a network computes in): load it the ordinary way.

    Raises:
        CheckpointError: If the weights are damaged or are not those of this network.
    """
    with open_weights(source, verify) as weights:
        places = map_weights(config, weights).places
        target = stored_tensors(config, layout_named("mindformers", config))
        plans = {stored.name: plan_tensor(stored, places) for stored in target}
        parts = _stored_parts(plans, weights)
        used = {rows.name for plan in parts.values() for rows in plan}
        types = {weights.tensors[rows.name].dtype.name for plan in plans.values() for rows in plan}
        if not can_be_mapped(weights.files) or not types <= set(WEIGHT_TYPES):
            return None
        tensors = map_files(weights.files)
        if verify:
            require_finite((tensors[name] for name in used), weights.where)
    return {
        name: tuple(tensors[rows.name].rows(rows.start, rows.stop) for rows in plan)
        for name, plan in parts.items()
    }


def _stored_parts(
    plans: Mapping[str, Sequence[Rows]], weights: WeightSource
) -> dict[str, list[Rows]]:
    """Return the plans with the names of what is stored: a quantized weight is two or three tensors."""
    parts: dict[str, list[Rows]] = {}
    for name, plan in plans.items():
        for rows in plan:
            found = weights.quantized.get(rows.name)
            for stored in found.parts if found else (rows.name,):
                end = stored.removeprefix(rows.name)
                ours = name + ("" if end == VALUES else end)
                parts.setdefault(ours, []).append(Rows(stored, rows.start, rows.stop))
    return parts
