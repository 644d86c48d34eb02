"""Weight names and weights of Hugging Face as ours, file by file: what upstream's loaders ask a model for.

``load_checkpoint`` and the converter do not need this; they read whole directories by the same table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np

from mindformers.checkpoint.tensor_io import SafeFile
from mindformers.errors import CheckpointError
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_weights import NAMES, piece_shapes

_OURS = NAMES.styles.index("mindformers")
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_FUSIONS = NAMES.fusions("mindformers")  # endings of the parts -> ending of the whole
_PIECES = {row.names[_OURS]: row.pieces for row in NAMES.inner if len(row.pieces) > 1}


def _translations() -> dict[str, str]:
    table: dict[str, str] = {}
    for column, prefix in enumerate(NAMES.prefixes):
        table |= {row.names[column]: row.names[_OURS] for row in NAMES.outer}
        inner = {prefix + row.names[column]: row.names[_OURS] for row in NAMES.inner}
        table |= {name: NAMES.prefixes[_OURS] + ours for name, ours in inner.items()}
    return table


_TO_OURS = _translations()


def our_name(weight_name: str) -> str:
    """Return our name of a weight, given in either of Hugging Face's layouts; others come back unchanged."""
    layer = _LAYER.search(weight_name)
    pattern = _LAYER.sub(".layers.{}.", weight_name)
    return _TO_OURS.get(pattern, weight_name).format(layer.group(1) if layer else "")


def our_names_in(files: Iterable[str | Path]) -> dict[str, str]:
    """Return our name -> stored name for all tensors of safetensors files.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    names: dict[str, str] = {}
    for path in files:
        with SafeFile(Path(path)) as file:
            names |= {our_name(name): name for name in file.tensors}
    return names


def our_files(source: Mapping[str, Any], qkv_concat: bool = False) -> dict[str, Any]:
    """Return stored name -> file as our name -> file; with ``qkv_concat`` under the fused names too."""
    result = {our_name(name): file for name, file in source.items()}
    if qkv_concat:
        for name in list(result):
            stem, parts = _part(name)
            if parts and "self_attention" in name:
                result[stem + _FUSIONS[parts]] = result.pop(name)
    return result


def our_weights(
    source: Mapping[str, Any],
    config: ChatGLM2Config,
    waiting: MutableMapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Return stored weights under our names, fused or split as the configuration has them.

    Args:
        source: Stored name -> array or tensor.
        config: Its ``qkv_concat`` and ``mlp_concat`` choose the form.
        waiting: Keeps parts whose fellows are in another file until those come; None: all must be in
            ``source``.

    Raises:
        CheckpointError: If a fused weight lacks a part, or a whole has other rows than the configuration.
    """
    parts: MutableMapping[str, np.ndarray] = {} if waiting is None else waiting
    result: dict[str, np.ndarray] = {}
    for name, value in source.items():
        array = value.asnumpy() if hasattr(value, "asnumpy") else np.asarray(value)
        ours = our_name(name)
        if _part(ours)[1] and _is_fused(ours, config):
            parts[ours] = array
        elif _whole(ours)[1] and not _is_fused(ours, config):
            result |= _split(ours, array, config)
        else:
            result[ours] = array
    result |= _fuse(parts)
    if waiting is None and parts:
        raise CheckpointError(
            f"the other parts of {min(parts)} are not among these weights",
            fix="give all of a layer's weights, or a dict as qkv_dict that gathers them",
        )
    return result


def _is_fused(name: str, config: ChatGLM2Config) -> bool:
    return bool(config.qkv_concat if "self_attention" in name else config.mlp_concat)


def _part(name: str) -> tuple[str, tuple[str, ...]]:
    """Return (stem, endings of all parts) if ``name`` is a part of a fused weight, else ("", ())."""
    for parts in _FUSIONS:
        for ending in parts:
            if name.endswith(ending):
                return name[: -len(ending)], parts
    return "", ()


def _whole(name: str) -> tuple[str, tuple[str, ...]]:
    for parts, ending in _FUSIONS.items():
        if name.endswith(ending):
            return name[: -len(ending)], parts
    return "", ()


def _fuse(parts: MutableMapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Take the parts that are complete out of ``parts`` and return the fused weights."""
    fused = {}
    for name in list(parts):
        stem, endings = _part(name)
        members = [stem + ending for ending in endings]
        if all(member in parts for member in members):
            whole = [parts.pop(member) for member in members]
            fused[stem + _FUSIONS[endings]] = np.concatenate(whole)
    return fused


def _split(name: str, array: np.ndarray, config: ChatGLM2Config) -> dict[str, np.ndarray]:
    stem, endings = _whole(name)
    shapes = piece_shapes(config)[1]
    rows = [shapes[piece][0] for piece in _PIECES[_FUSIONS[endings]]]
    if array.shape[0] != sum(rows):
        raise CheckpointError(
            f"has {array.shape[0]} rows, the configuration {sum(rows)}", where=name
        )
    pieces = np.split(array, np.cumsum(rows)[:-1])
    return {stem + ending: piece for ending, piece in zip(endings, pieces, strict=True)}
