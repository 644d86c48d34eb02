"""``LoraConfig`` and ``Ptuning2Config``: settings as objects, with upstream's arguments. Loads no MindSpore."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers.config.pet import AnyPet, LoraSection, Ptuning2Section, Targets
from mindformers.config.report import bind_section


class LoraConfig:
    """Settings of LoRA; each is an attribute.

    Args:
        lora_rank: Rows of A and columns of B.
        lora_alpha: The adapter's product is multiplied by lora_alpha / lora_rank.
        lora_dropout: Share of an adapter's inputs set to 0 in training.
        lora_a_init: ``he_uniform`` (as peft) or ``normal``.
        lora_b_init: ``zero``.
        param_init_type: None or ``float32``.
        compute_dtype: Upstream's; has no effect.
        target_modules: Layers that get an adapter; see ``LoraSection``.
        exclude_layers: Layers that get none.
        freeze_include: Upstream's; all but the adapters is frozen.
        freeze_exclude: Upstream's; only the adapters are trained.
        **further: ``use_rslora`` and ``pet_type``.

    Raises:
        ConfigError: If an argument is unknown, out of range or not implemented.
    """

    def __init__(  # noqa: PLR0913 -- upstream's arguments
        self,
        lora_rank: int = 8,
        lora_alpha: float = 16,
        lora_dropout: float = 0.01,
        lora_a_init: str = "he_uniform",
        lora_b_init: str = "zero",
        param_init_type: str | None = None,
        compute_dtype: str | None = None,
        target_modules: Targets | None = None,
        exclude_layers: Targets | None = None,
        freeze_include: list[str] | None = None,
        freeze_exclude: list[str] | None = None,
        **further: Any,
    ):
        given = {
            "lora_rank": lora_rank,
            "lora_alpha": lora_alpha,
            "lora_dropout": lora_dropout,
            "lora_a_init": lora_a_init,
            "lora_b_init": lora_b_init,
            "param_init_type": param_init_type,
            "compute_dtype": compute_dtype,
            "target_modules": target_modules,
            "exclude_layers": exclude_layers,
            "freeze_include": freeze_include,
            "freeze_exclude": freeze_exclude,
        }
        self.__dict__.update(bind_lora({**given, **further}).model_dump())

    def to_dict(self) -> dict[str, Any]:
        """Return every field, as it would stand under ``pet_config``."""
        return dict(self.__dict__)

    def __repr__(self) -> str:
        return f"LoraConfig({self.to_dict()})"


def bind_lora(settings: Any) -> LoraSection:
    """Return the checked form of settings given as a mapping, a ``LoraConfig`` or a section.

    Raises:
        ConfigError: If a key is unknown or a value cannot be used.
    """
    if isinstance(settings, LoraSection):
        return settings
    plain = dict(settings if isinstance(settings, Mapping) else settings.to_dict())
    section: LoraSection = bind_section(LoraSection, plain, "pet_config")
    return section


class Ptuning2Config:
    """Settings of P-tuning v2; each is an attribute.

    Args:
        pre_seq_len: Trained positions before the first token.
        prefix_projection: Make the prefix of its rows by two layers with tanh between them.
        projection_dim: Channels between those two layers.
        dropout_prob: Share of the prefix set to 0 in training.
        **further: ``pet_type``.

    Raises:
        ConfigError: If an argument is unknown or out of range.
    """

    def __init__(
        self,
        pre_seq_len: int = 128,
        prefix_projection: bool = False,
        projection_dim: int = 128,
        dropout_prob: float = 0.01,
        **further: Any,
    ):
        given = {
            "pre_seq_len": pre_seq_len,
            "prefix_projection": prefix_projection,
            "projection_dim": projection_dim,
            "dropout_prob": dropout_prob,
        }
        section = bind_section(Ptuning2Section, {**given, **further}, "pet_config")
        self.__dict__.update(section.model_dump())

    def to_dict(self) -> dict[str, Any]:
        """Return every field, as it would stand under ``pet_config``."""
        return dict(self.__dict__)

    def __repr__(self) -> str:
        return f"Ptuning2Config({self.to_dict()})"


def note_settings(network: Any, settings: AnyPet | None) -> None:
    """Note the settings in the network's configuration, of which others may hold the old object."""
    config = getattr(network, "config", None)
    if config is not None:
        dump = settings.model_dump() if settings else None
        network.config = type(config)(**{**config.to_dict(), "pet_config": dump})
    # What was compiled knows the layers as they were.
    network.compile_cache.clear()
    getattr(network, "_runners", {}).clear()
