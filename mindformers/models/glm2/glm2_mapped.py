"""A network's weights where they lie on disk: mapped files under our parameters' names, no copies."""

from __future__ import annotations

from pathlib import Path

from mindformers.checkpoint.dtypes import WEIGHT_TYPES
from mindformers.checkpoint.keymap import plan_tensor
from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.mapped import MappedTensor, can_be_mapped, map_files, require_finite
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
        keeps it in one piece, three where it keeps query, key and value apart. None when the source
        is readable but not in place (``.ckpt``, another element type than a network computes in):
        load it the ordinary way.

    Raises:
        CheckpointError: If the weights are damaged or are not those of this network.
    """
    with open_weights(source, verify) as weights:
        places = map_weights(config, weights).places
        target = stored_tensors(config, layout_named("mindformers", config))
        plans = {stored.name: plan_tensor(stored, places) for stored in target}
        used = {rows.name for plan in plans.values() for rows in plan}
        types = {weights.tensors[name].dtype.name for name in used}
        if not can_be_mapped(weights.files) or not types <= set(WEIGHT_TYPES):
            return None
        tensors = map_files(weights.files)
        if verify:
            require_finite((tensors[name] for name in used), weights.where)
    return {
        name: tuple(tensors[rows.name].rows(rows.start, rows.stop) for rows in plan)
        for name, plan in plans.items()
    }
