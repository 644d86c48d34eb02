"""A network's weights rounded to int8 or int4 as they are loaded, one at a time. Needs no MindSpore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mindformers.checkpoint.dtypes import BY_NAME
from mindformers.checkpoint.quantized import (
    BITS,
    BLOCK,
    QuantizedMatrix,
    Scheme,
    check_columns,
    dequantize,
    quantize,
    usual_group,
)
from mindformers.checkpoint.quantized_files import SCALES, ZEROS, Description
from mindformers.errors import ConfigError
from mindformers.logger import logger
from mindformers.machine import usable_cpus
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_native import EMBEDDING, HEAD
from mindformers.ops.native.arrays import Buffer, of_array, view

Parts = Sequence[Buffer]
_ELEMENTS = 2**18  # rounded at once by a thread: they and what comes of them stay in the cache


def description_of(
    config: ChatGLM2Config, shapes: Mapping[str, tuple[int, ...]], symmetric: bool = True
) -> Description:
    """Return how each matrix of a network is rounded, as its settings say.

    Args:
        config: ``quantization``, ``quantization_group``, ``_head`` and ``_embedding``. Without a group
            matrices that cannot be cut into groups are left as they are.
        shapes: Weight -> its axes; those with one are left as they are.
        symmetric: False: int4 gets zero points.

    Raises:
        ConfigError: If the columns of a matrix cannot be cut into such groups.
    """
    assert config.quantization is not None
    matrices = {name: shape[1] for name, shape in shapes.items() if len(shape) == 2}
    uneven = [name for name, cols in matrices.items() if cols % BLOCK]
    widths = {cols for cols in matrices.values() if cols % BLOCK == 0}

    def scheme(kind: str) -> Scheme:
        bits = BITS[kind]
        is_main = kind == config.quantization and config.quantization_group
        group = config.quantization_group if is_main else usual_group(bits, widths)
        return Scheme(bits, group, symmetric or bits != BITS["int4"])

    main = scheme(config.quantization)
    chosen = {EMBEDDING: config.quantization_embedding, HEAD: config.quantization_head}
    kept = [] if config.quantization_group else uneven
    if kept:
        logger.warning(
            "%d matrices are not rounded, their rows are no multiple of %d columns: %s ...",
            len(kept), BLOCK, kept[0],
        )  # fmt: skip
    excluded = tuple(n for n in matrices if chosen.get(n) == "none" or n in kept)
    others = {
        name: scheme(kind)
        for name, kind in chosen.items()
        if name in matrices and kind != config.quantization and name not in excluded
    }
    found = Description(main, others, excluded)
    for name, cols in matrices.items():
        if name not in excluded:
            check_columns(cols, found.scheme_of(name), name)
    return found


def quantized_weights(config: ChatGLM2Config, weights: Mapping[str, Parts]) -> Mapping[str, Parts]:
    """Return the weights as ``config.quantization`` wants them: rounded here, or as they are.

    Args:
        config: The network's settings.
        weights: As ``native_network`` takes them; what is not rounded stays where it is.

    Returns:
        The same names, with ``.scales`` for those that are rounded. A weight that comes quantized
        stays as it is.

    Raises:
        ConfigError: If the weights are quantized to another width already, or cannot be to this one.
    """
    if config.quantization is None:
        return weights
    stored = [name for name in weights if name.endswith(SCALES)]
    if stored:
        _refuse_other_width(config, weights, stored)
        return weights
    shapes = {name: (1, *parts[0].shape[1:]) for name, parts in weights.items()}
    description = description_of(config, shapes)
    excluded = {*description.excluded, *(n for n, shape in shapes.items() if len(shape) == 1)}
    result: dict[str, Parts] = {}
    before = after = 0
    with ThreadPoolExecutor(usable_cpus()) as pool:
        for name, parts in weights.items():
            if name in excluded:
                result[name] = parts
                continue
            scheme = description.scheme_of(name)
            rounded = [round_buffer(part, scheme, name, pool) for part in parts]
            result[name] = tuple(of_array(each.values) for each in rounded)
            result[name + SCALES] = tuple(of_array(each.scales) for each in rounded)
            if not scheme.symmetric:
                result[name + ZEROS] = tuple(
                    of_array(each.zeros) for each in rounded if each.zeros is not None
                )
            before += sum(part.shape[0] * part.shape[1] for part in parts)
            after += sum(each.values.nbytes + each.scales.nbytes for each in rounded)
    logger.info(
        "quantized %s weights to %s: %.2f GB", f"{before:,}", config.quantization, after / 1e9
    )
    return result


def round_in_place(config: ChatGLM2Config, weights: Mapping[str, Buffer]) -> None:
    """Give weights the values they have once they are rounded: what the portable form computes with.

    Args:
        config: The network's settings, with ``quantization``.
        weights: Name -> where it lies, on a CPU.

    Raises:
        ConfigError: If a weight cannot be rounded.
    """
    description = description_of(config, {name: each.shape for name, each in weights.items()})
    with ThreadPoolExecutor(usable_cpus()) as pool:
        for name, buffer in weights.items():
            if len(buffer.shape) == 1 or name in description.excluded:
                continue
            values = view(buffer)
            if buffer.dtype == "bfloat16":
                values = values.view(BY_NAME["bfloat16"].numpy)
            rounded = round_buffer(buffer, description.scheme_of(name), name, pool)
            step = max(1, _ELEMENTS // buffer.shape[1])
            for first in range(0, len(values), step):
                values[first : first + step] = dequantize(rounded.rows(first, first + step))


def round_buffer(
    buffer: Buffer, scheme: Scheme, where: str, pool: ThreadPoolExecutor
) -> QuantizedMatrix:
    """Return a matrix rounded; its rows are shared out among the threads of ``pool``."""
    step = max(1, _ELEMENTS // buffer.shape[1])
    held = view(buffer)

    def rounded(first: int) -> QuantizedMatrix:
        rows = held[first : first + step]
        is_wide = buffer.dtype == "bfloat16"
        floats = (
            (rows.astype(np.uint32) << 16).view(np.float32) if is_wide else rows.astype(np.float32)
        )
        return quantize(floats, scheme, where)

    done = list(pool.map(rounded, range(0, buffer.shape[0], step)))
    zeros = None
    if not scheme.symmetric:
        zeros = np.concatenate([each.zeros for each in done if each.zeros is not None])
    return QuantizedMatrix(
        np.concatenate([each.values for each in done]),
        np.concatenate([each.scales for each in done]),
        zeros,
    )


def _refuse_other_width(
    config: ChatGLM2Config, weights: Mapping[str, Parts], stored: Sequence[str]
) -> None:
    kinds = {}
    for name in stored:
        weight = name.removesuffix(SCALES)
        kinds[weight] = "int4" if weights[weight][0].dtype == "uint8" else "int8"
    inner = {kind for name, kind in kinds.items() if name not in (EMBEDDING, HEAD)} or set(
        kinds.values()
    )
    if inner != {config.quantization}:
        raise ConfigError(
            f"the weights are {' and '.join(sorted(inner))} already, not {config.quantization}",
            where="model.model_config.quantization",
            fix="leave the setting out, or give the weights they were made from",
        )
