"""What a ``config.json`` of Hugging Face's library says of rotary positions, and back.

New files hold ``rope_parameters``; older ones ``rope_theta``, ``partial_rotary_factor`` and ``rope_scaling``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers.errors import ConfigError
from mindformers.logger import warn_once
from mindformers.models.glm2.glm2_config import ROPE_BASE, ChatGLM2Config

_SUSPECT_LENGTH = 131072  # seq_length of glm-4-9b-chat, whose rope_theta is 5,000,000
_YARN = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor")
_KNOWN = (*_YARN, "rope_type", "type", "rope_theta", "partial_rotary_factor")


def rope_from_hf(content: Mapping[str, Any], length: int, where: str) -> dict[str, Any]:
    """Return ``rope_ratio``, ``rope_scaling`` and ``seq_length``.

    Args:
        content: The parsed file.
        length: Its ``max_position_embeddings``; with YaRN the network reaches further.
        where: The file, for errors.

    Raises:
        ConfigError: If it asks for something the network does not do.
    """
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    factor = rope.get("partial_rotary_factor", content.get("partial_rotary_factor", 0.5))
    if factor != 0.5:
        raise ConfigError(f"partial_rotary_factor {factor}", where=where, allowed="0.5")
    fields: dict[str, Any] = {"rope_ratio": _rope_ratio(content, rope, length, where)}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return fields
    if kind != "yarn":
        raise ConfigError(
            f"rope_type {kind!r}",
            where=where,
            allowed="'default' or 'yarn'",
            fix="remove the scaling from config.json to run within the trained length",
        )
    for name in rope:
        if name not in _KNOWN and rope[name] is not None:
            raise ConfigError(
                f"rope_scaling has {name} {rope[name]!r}", where=where, allowed=", ".join(_KNOWN)
            )
    scaling = {name: rope[name] for name in _YARN if rope.get(name) is not None}
    scaling.setdefault("original_max_position_embeddings", length)
    trained, times = scaling["original_max_position_embeddings"], scaling.get("factor")
    if isinstance(times, int | float) and isinstance(trained, int):
        fields["seq_length"] = max(length, int(times * trained))
    return {**fields, "rope_scaling": scaling}


def _rope_ratio(
    content: Mapping[str, Any], rope: Mapping[str, Any], length: int, where: str
) -> float:
    """Return rope_theta / 10000 from the new (``rope_parameters``) or the old keys."""
    theta = rope.get("rope_theta", content.get("rope_theta", ROPE_BASE))
    if not isinstance(theta, int | float):
        raise ConfigError(f"rope_theta {theta!r}", where=where, allowed="a number")
    ratio = theta / ROPE_BASE
    if ratio == 1 and length >= _SUSPECT_LENGTH and content["model_type"] == "glm":
        warn_once(
            "%s: rope_theta 10000 with max_position_embeddings %d: some published converters lose "
            "rope_ratio; glm-4-9b-chat needs rope_theta 5000000, glm-4-9b-chat-1m 100000000",
            where,
            length,
        )
    return int(ratio) if ratio == int(ratio) else ratio


def warn_beyond_trained(config: ChatGLM2Config, trained: int, where: str) -> None:
    """Say that a network is asked for positions its weights were not trained for.

    Args:
        config: The network's settings; with YaRN it reaches ``factor`` times the length this was trained with.
        trained: Positions the weights were trained for.
        where: Their file.
    """
    scaling = config.rope_scaling or {}
    if scaling:
        times = scaling["factor"] * scaling["original_max_position_embeddings"]
        trained = max(trained, int(times))
    if config.seq_length > trained:
        warn_once(
            "%s: seq_length %d, but these weights reach %d positions%s: beyond them answers make no sense "
            "unless they are trained further",
            where, config.seq_length, trained, " with rope_scaling" if scaling else ", more with rope_scaling",
        )  # fmt: skip


def rope_to_hf(config: ChatGLM2Config) -> dict[str, Any]:
    """Return the keys of a ``config.json``, for new and for older releases of the library."""
    rotary = {"partial_rotary_factor": 0.5, "rope_theta": config.rope_base}
    scaling = {k: v for k, v in (config.rope_scaling or {}).items() if v is not None}
    old = {"rope_scaling": scaling} if scaling else {}
    return {"rope_parameters": {"rope_type": "default", **scaling, **rotary}, **rotary, **old}
