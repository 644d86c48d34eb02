"""A GLM that answers with its weights where they lie in their files. Needs no MindSpore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindformers.logger import logger
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_mapped import mapped_weights
from mindformers.models.glm2.glm2_native import native_network
from mindformers.models.glm2.glm2_quantized import quantized_weights
from mindformers.models.native_forms import native_runner, native_step
from mindformers.models.text_model import TextModel
from mindformers.ops.native.arrays import Buffer
from mindformers.ops.native.library import is_native
from mindformers.ops.native.network import NativeNetwork
from mindformers.pet.adapter_source import holds_adapters


class GlmInFiles(TextModel):
    """A network that generates and chats; it cannot be trained or changed.

    Args:
        config: Its settings.
        network: Its weights and cache.
    """

    config_class = ChatGLM2Config

    def __init__(self, config: ChatGLM2Config, network: NativeNetwork):
        self.config, self.network = config, network
        self.pretrained_dir: Path | None = None
        self._runners: dict[bool, Any] = {}

    @classmethod
    def open(cls, config: ChatGLM2Config, source: str | Path) -> GlmInFiles | None:
        """Return the model in ``source``, or None where it takes the ordinary network to read it.

        Raises:
            CheckpointError: If the files are damaged or hold another network's weights.
        """
        if config.pet or holds_adapters(source):
            return None  # weights with adapters are not those of the files
        weights = mapped_weights(Path(source), config) if is_native() else None
        if weights is None:
            return None
        buffers = {
            name: tuple(Buffer(p.address, p.dtype, p.shape, p.array) for p in parts)
            for name, parts in weights.items()
        }
        model = cls(config, native_network(config, quantized_weights(config, buffers)))
        model.pretrained_dir = Path(source) if Path(source).is_dir() else None
        logger.info("network: weights in place in %s, %d layers", source, config.num_layers)
        return model

    def native_network(self) -> NativeNetwork:
        """Return the network for the native kernels."""
        return self.network

    def build_runner(self, use_cache: bool) -> Any:
        """Return a new runner; the cache is always used: it changes no number."""
        del use_cache
        return native_runner(self.config, self.native_network)

    def build_step(self) -> Any:
        """Return what an engine answers through."""
        return native_step(self.config, self.network)
