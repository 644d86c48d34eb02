"""Answering with adapters that the settings name: one for all prompts, or one for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mindformers.config.inference import NO_ADAPTER
from mindformers.config.run_config import RunConfig
from mindformers.errors import ConfigError
from mindformers.pet.adapter_source import holds_adapters

T = TypeVar("T")


def adapters_of(config: RunConfig, count: int) -> list[str]:
    """Return the adapter of each of ``count`` prompts; empty where the settings name none.

    Raises:
        ConfigError: If there are more or fewer than prompts, or the weights are adapters themselves.
    """
    names = config.adapter_names
    if len(names) > 1 and len(names) != count:
        raise ConfigError(
            f"{len(names)} adapters for {count} prompts", where="adapter_id",
            allowed="one for all, or one for each prompt",
        )  # fmt: skip
    if names and config.weights_path and holds_adapters(config.weights_path):
        raise ConfigError(
            f"{config.weights_path} holds adapters too", where="load_checkpoint",
            allowed="with adapter_id: whole weights", fix="name the weights the adapters were trained on",
        )  # fmt: skip
    return names * count if len(names) == 1 else names


def without_adapters(config: RunConfig) -> RunConfig:
    """Return the settings with a network that has no adapters yet; those that are named are put into it."""
    if config.model is None:
        return config
    network = config.model.network.model_copy(update={"pet_config": None})
    model = config.model.model_copy(update={"network": network})
    return config.model_copy(update={"model": model})


def answer_with(
    network: Any,
    names: Sequence[str],
    prompts: Sequence[str],
    answer: Callable[[list[str]], list[T]],
) -> list[T]:
    """Return the answers in the order of the prompts; those with the same adapter are answered together.

    Args:
        network: Without adapters; it has none afterwards.
        names: The adapter of each prompt.
        prompts: What is asked.
        answer: Prompts to answers.

    Raises:
        CheckpointError: If adapters are damaged or were trained on other weights; nothing is answered then.
    """
    from mindformers.pet.adapter_set import AdapterSet  # brings MindSpore

    adapters = AdapterSet(network)
    answers: dict[int, T] = {}
    chosen = list(dict.fromkeys(names))
    for name in chosen:
        if name != NO_ADAPTER:
            adapters.add(name, name)
    for name in chosen:
        adapters.use(None if name == NO_ADAPTER else name)
        places = [place for place, each in enumerate(names) if each == name]
        answers |= dict(zip(places, answer([prompts[place] for place in places]), strict=True))
    adapters.use(None)
    return [answers[place] for place in range(len(prompts))]
