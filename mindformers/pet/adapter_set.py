"""Several adapters of one network, of which one or none is in use; the weights stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindformers.config.pet import LoraSection
from mindformers.errors import ConfigError, did_you_mean
from mindformers.pet.adapter_files import own_adapters
from mindformers.pet.adapter_layout import Adapter
from mindformers.pet.lora import fill_adapters, get_pet_model, lora_layers
from mindformers.pet.merge import remove_adapter


class AdapterSet:
    """Adapters by name, held in memory; ``use`` puts one into the network.

    Args:
        network: A network with its weights loaded and no adapters.

    Attributes:
        active: The name of the adapter in use, or None.

    Raises:
        ConfigError: If the network has adapters already.
    """

    def __init__(self, network: Any):
        if lora_layers(network):
            raise ConfigError(
                "the network has adapters already", where="AdapterSet",
                fix="take them off first: remove_adapter(network)",
            )  # fmt: skip
        self.network = network
        self.active: str | None = None
        self._held: dict[str, tuple[LoraSection, dict[str, Adapter]]] = {}

    @property
    def names(self) -> list[str]:
        """The adapters there are, in the order they were added."""
        return list(self._held)

    def add(self, name: str, source: str | Path) -> None:
        """Read adapters from a folder in peft's layout or a step of a LoRA run, checked against the weights.

        Raises:
            CheckpointError: If they are damaged or were trained on other weights.
            ConfigError: If there is one of this name.
        """
        if name in self._held:
            raise ConfigError(f"there is an adapter {name!r} already", where="AdapterSet.add")
        self._held[name] = own_adapters(self.network, source)

    def use(self, name: str | None) -> None:
        """Compute with an adapter from now on; None: with the weights alone.

        Raises:
            ConfigError: If there is none of this name.
        """
        if name is not None and name not in self._held:
            raise ConfigError(
                f"no adapter {name!r}", where="AdapterSet.use",
                allowed=", ".join(self._held) or "none has been added",
                fix=did_you_mean(name, self._held),
            )  # fmt: skip
        if name == self.active:
            return
        was_training = self.network.training
        if self.active is not None:
            remove_adapter(self.network)
        self.active = name
        if name is not None:
            settings, adapters = self._held[name]
            get_pet_model(self.network, settings)
            fill_adapters(self.network, adapters)
        self.network.set_train(was_training)
