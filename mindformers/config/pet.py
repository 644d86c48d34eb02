"""``model.model_config.pet_config``: parameter-efficient finetuning, as upstream names its keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from mindformers.config.fields import Count, PositiveRate
from mindformers.config.report import bind_section
from mindformers.config.section import Section, only
from mindformers.errors import ConfigError, did_you_mean

LORA_A, LORA_B = "mindpet_delta_lora_a", "mindpet_delta_lora_b"  # upstream's names of A and B
LORA_DRAW = "lora_dropout_draw"  # ours: what the elements that are dropped follow from
# Query, key and value projections in either layout of the weights: what peft takes for this family.
DEFAULT_TARGETS = r".*(query_key_value|wq|wk|wv)$"
PREFIX = "transformer.prefix_encoder."  # begins the names of a trained prefix; the original's
Targets = str | list[str]
_ALL_FROZEN: tuple[Any, ...] = (None, [], ["*"])
_ADAPTERS_FREE: tuple[Any, ...] = (None, [], ["*lora*"], ["*mindpet_delta_lora*"])


Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


def _plain(value: Any) -> Any:
    """Take a ``LoraConfig`` for its fields; settings that name no method are LoRA's."""
    value = value.to_dict() if hasattr(value, "to_dict") else value
    return {"pet_type": "lora", **value} if isinstance(value, Mapping) else value


class LoraSection(Section):
    """LoRA: y = W x + scale * B A x with trained A and B; W stays as it is."""

    pet_type: Literal["lora"] = Field(default="lora", description="The method.")
    lora_rank: Count = Field(default=8, description="Rows of A and columns of B.")
    lora_alpha: PositiveRate = Field(
        default=16, description="The adapter's product is multiplied by lora_alpha / lora_rank."
    )
    lora_dropout: Share = Field(
        default=0.01, description="Share of an adapter's inputs set to 0 in training."
    )
    lora_a_init: Literal["he_uniform", "normal"] = Field(
        default="he_uniform",
        description="Start of A: uniform in ±1/sqrt(columns) as peft, or Normal(0.01).",
    )
    lora_b_init: Annotated[str, only("zero", "zeros", feature="a start of B other than 0")] = Field(
        default="zero", description="Start of B."
    )
    use_rslora: bool = Field(
        default=False, description="Multiply by lora_alpha / sqrt(lora_rank) instead."
    )
    target_modules: Targets | None = Field(
        default=None,
        description="Linear layers that get an adapter: a regular expression matched from the start of a "
        "layer's full name, or a list of ends of names; null: query, key and value.",
    )
    exclude_layers: Targets | None = Field(
        default=None, description="Layers that get none, given in the same two ways."
    )
    base_quantization: Literal["int8", "int4"] | None = Field(
        default=None,
        description="Hold the frozen matrices of the layers in int8 or int4 (QLoRA); null: in param_init_type.",
    )
    rank_pattern: dict[str, Count] = Field(
        default_factory=dict,
        description="Other ranks for some layers: end of a layer's name, or a regular expression for it -> rank.",
    )
    alpha_pattern: dict[str, PositiveRate] = Field(
        default_factory=dict, description="Other lora_alpha for some layers, named in the same way."
    )
    freeze_include: Annotated[
        list[str] | None, only(*_ALL_FROZEN, feature="freezing only a part of the network")
    ] = Field(default=None, description="Upstream's; all but the adapters is frozen.")
    freeze_exclude: Annotated[
        list[str] | None, only(*_ADAPTERS_FREE, feature="training more than the adapters")
    ] = Field(default=None, description="Upstream's; only the adapters are trained.")
    param_init_type: Annotated[str | None, only(None, "float32", feature="another type")] = Field(
        default=None, description="Type of A and B: float32."
    )
    compute_dtype: str | None = Field(
        default=None, description="Upstream's; adapters compute in the layer's type."
    )

    @field_validator("target_modules", "exclude_layers")
    @classmethod
    def _can_match(cls, value: Targets | None) -> Targets | None:
        if isinstance(value, str):
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"is no regular expression: {error}") from error
        if value is not None and not value:
            raise ValueError("is empty; allowed: null, a regular expression or a list of names")
        return value

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _are_expressions(cls, value: dict[str, float]) -> dict[str, float]:
        for key in value:
            try:
                re.compile(key)
            except re.error as error:
                raise ValueError(f"{key!r} is no regular expression: {error}") from error
        return value

    def for_layer(self, name: str) -> LoraSection:
        """Return the settings of one layer: its own rank and alpha, no patterns."""
        own = {
            "lora_rank": _of_pattern(self.rank_pattern, name, self.lora_rank),
            "lora_alpha": _of_pattern(self.alpha_pattern, name, self.lora_alpha),
        }
        return self.model_copy(update={**own, "rank_pattern": {}, "alpha_pattern": {}})

    @property
    def scale(self) -> float:
        """What the adapter's product is multiplied by."""
        return self.lora_alpha / (self.lora_rank**0.5 if self.use_rslora else self.lora_rank)


def matches(targets: Targets, name: str) -> bool:
    """Tell whether a layer's full name is meant by a regular expression or a list of ends of names."""
    if isinstance(targets, str):
        return re.match(targets, name) is not None
    return any(name == each or name.endswith(f".{each}") for each in targets)


def fits_end(key: str, name: str) -> bool:
    """Tell whether a key of a pattern is an expression for the end of a layer's name, as peft looks it up."""
    return re.match(rf"(.*\.)?({key})$", name) is not None


def _of_pattern(pattern: dict[str, Any], name: str, default: Any) -> Any:
    return next((value for key, value in pattern.items() if fits_end(key, name)), default)


class Ptuning2Section(Section):
    """P-tuning v2: trained keys and values before the first token of every layer; all weights are frozen."""

    pet_type: Literal["ptuning2"] = Field(default="ptuning2", description="The method.")
    pre_seq_len: Count = Field(default=128, description="Trained positions before the first token.")
    prefix_projection: bool = Field(
        default=False,
        description="Make the prefix of its rows by two layers with tanh between them.",
    )
    projection_dim: Count = Field(
        default=128, description="Channels between those two layers; the original has hidden_size."
    )
    dropout_prob: Share = Field(
        default=0.01, description="Share of the prefix set to 0 in training; the original has 0.1."
    )


AnyPet = LoraSection | Ptuning2Section
PetSection = Annotated[
    Annotated[LoraSection | Ptuning2Section, Field(discriminator="pet_type")],
    BeforeValidator(_plain),
]


def pet_of(network: Any) -> AnyPet | None:
    """Return what a network trains beside its frozen weights, or None where it trains these.

    A ``pre_seq_len`` without ``pet_config`` asks for a prefix as the original repository makes it.

    Args:
        network: Settings with ``pet_config``, ``pre_seq_len``, ``prefix_projection`` and ``hidden_size``.
    """
    given = network.pet_config
    if given is not None:
        return bind_pet(given)
    if network.pre_seq_len is None:
        return None
    return Ptuning2Section(
        pre_seq_len=network.pre_seq_len,
        prefix_projection=network.prefix_projection,
        projection_dim=network.hidden_size,
        dropout_prob=0.1,  # modeling_chatglm.py of chatglm2-6b: self.dropout
    )


def bind_pet(settings: Any) -> AnyPet:
    """Return the checked form of settings given as a mapping, a configuration object or a section.

    Raises:
        ConfigError: If a key is unknown or a value cannot be used.
    """
    if isinstance(settings, AnyPet):
        return settings
    plain = _plain(settings)
    sections: dict[str, type[Section]] = {"lora": LoraSection, "ptuning2": Ptuning2Section}
    kind = plain["pet_type"]
    if kind not in sections:
        raise ConfigError(
            f"pet_type {kind!r}",
            where="pet_config",
            allowed=", ".join(sections),
            fix=did_you_mean(str(kind), sections),
        )
    section = bind_section(sections[kind], plain, "pet_config")
    assert isinstance(section, AnyPet)
    return section
