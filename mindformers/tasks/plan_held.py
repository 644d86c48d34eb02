"""The tensors a process of a planned run holds: weights, adapters, a trained prefix."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from mindformers.config.pet import DEFAULT_TARGETS, PREFIX, LoraSection, Ptuning2Section, Targets
from mindformers.models.glm2.glm2_config import ChatGLM2Config


@dataclass(frozen=True)
class Held:
    """Tensors of one form that a process holds.

    Attributes:
        name: Of the first of them.
        shape: Of each, in this process.
        count: How many: one for each layer of the stage.
        type_bytes: Bytes of an element.
        is_trained: It has a gradient and a state in the optimizer.
    """

    name: str
    shape: tuple[int, ...]
    count: int
    type_bytes: float
    is_trained: bool

    @cached_property
    def size(self) -> int:
        """Elements of them all."""
        return math.prod(self.shape) * self.count

    @property
    def is_matrix(self) -> bool:
        """Whether a layer multiplies by it."""
        return len(self.shape) == 2 and self.name.startswith("transformer.encoder")


def held_adapters(
    settings: LoraSection, name: str, shape: tuple[int, ...], numbers: range, is_trained: bool
) -> Iterator[Held]:
    """Yield A and B of the layers whose matrix has an adapter.

    Args:
        settings: Rank and targets.
        name: The weight of layer 0.
        shape: Its axes in this process.
        numbers: The layers of the stage.
        is_trained: Not while answering.
    """
    layer, _, ending = name.rpartition(".")
    if ending != "weight" or len(shape) != 2:
        return
    targets = settings.target_modules or DEFAULT_TARGETS
    names = [layer.replace(".layers.0.", f".layers.{number}.") for number in numbers]
    chosen = [each for each in names if _matches(targets, each)]
    excluded = settings.exclude_layers
    count = sum(not (excluded and _matches(excluded, each)) for each in chosen)
    forms = {"a": (settings.lora_rank, shape[1]), "b": (shape[0], settings.lora_rank)}
    for end, form in forms.items():
        if count:
            yield Held(f"{layer}.lora_{end}", form, count, 4.0, is_trained)


def held_prefix(
    settings: Ptuning2Section, network: ChatGLM2Config, layers: int, is_trained: bool
) -> Iterator[Held]:
    """Yield what a trained prefix is made of, by the layers its columns belong to."""
    columns = 2 * network.n_kv_heads * network.kv_channels  # keys and values of one layer
    forms: dict[str, tuple[tuple[int, ...], int]]
    forms = {"embedding.weight": ((settings.pre_seq_len, columns), layers)}
    if settings.prefix_projection:
        forms |= {
            "trans.0.weight": ((settings.projection_dim, columns), layers),
            "trans.0.bias": ((settings.projection_dim,), 1),
            "trans.2.weight": ((columns, settings.projection_dim), layers),
            "trans.2.bias": ((columns,), layers),
        }
    for name, (form, count) in forms.items():
        yield Held(f"{PREFIX}{name}", form, count, 4.0, is_trained)


def _matches(targets: Targets, name: str) -> bool:
    """Tell whether a layer is meant; as when adapters are put in."""
    if isinstance(targets, str):
        return re.match(targets, name) is not None
    return any(name == each or name.endswith(f".{each}") for each in targets)
