"""``PrefixedGLM2``: what a GLM network needs to begin every sequence with a trained prefix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindformers.checkpoint.parts import Parted
from mindformers.config.pet import PREFIX, Ptuning2Section
from mindformers.models.glm2.glm2_pretrained import GLM2PreTrainedModel
from mindformers.models.glm2.glm2_shares import Copied, prefix_copies, prefix_parts
from mindformers.modules.prefix import PrefixedAttention, PrefixEncoder
from mindformers.ops.attention import PortableMask, build_attention
from mindformers.ops.backend import compute_dtype
from mindformers.parallel.mesh import mesh


class PrefixedGLM2(GLM2PreTrainedModel):
    """Base of the GLM networks that can have a trained prefix; the network has ``transformer``."""

    transformer: Any

    def attach_prefix(self, settings: Ptuning2Section) -> None:
        """Put a prefix before the first token of every layer of this process."""
        model, config = self.transformer, self.config
        held = model.encoder.held
        encoder = PrefixEncoder(
            settings,
            prefix_parts(settings, config, mesh().layout),
            heads=(
                len(held),
                model.encoder.layers[held[0]].self_attention.num_groups,
                config.kv_channels,
            ),
            dtype=compute_dtype(config.compute_dtype),
            seed=ms.get_seed(),
        )
        names = {id(p): f"{PREFIX}{name}" for name, p in encoder.parameters_and_names()}
        model.prefix_encoder, model.prefix_length = encoder, settings.pre_seq_len
        for parameter in encoder.get_parameters():  # assigning a cell names them by its attribute
            parameter.name = names[id(parameter)]
        if mesh().context.is_alone:
            model.mask = PortableMask()  # a tensor, which the prefix can be put before
        for place, index in enumerate(held):
            attention = model.encoder.layers[index].self_attention
            form = build_attention(
                attention.num_heads,
                attention.num_groups,
                attention.head_dim,
                config.use_flash_attention,
            )
            attention.attention = PrefixedAttention(attention.rotate, form, place)

    def prefix_parts(self) -> dict[str, Parted]:
        """Return, by parameter name, what this process's prefix is of the whole one; empty without one."""
        return self._of_prefix(prefix_parts)

    def prefix_copies(self) -> dict[str, list[Copied]]:
        """Return, by parameter name, the rows of the prefix that other ranks hold as well."""
        return self._of_prefix(prefix_copies)

    def _of_prefix(self, told: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        settings = self.config.pet
        if not self.prefix_length or not isinstance(settings, Ptuning2Section):
            return {}
        return told(settings, self.config, mesh().layout)

    @property
    def prefix_length(self) -> int:
        """Positions of a trained prefix before the first token; 0 without one."""
        return int(self.transformer.prefix_length)

    def prefix(self) -> np.ndarray:
        """Return this process's prefix as it is now, (layers, 2, positions, heads, channels) float32."""
        past: np.ndarray = self.transformer.prefix_encoder().asnumpy()
        return past.astype(np.float32)

    def write_prefix(self, slots: np.ndarray) -> None:
        """Put the prefix into the cache of every layer.

        Args:
            slots: (rows, positions), where the prefix of each row goes.
        """
        past = self.prefix()
        rows = past.reshape((*past.shape[:3], -1))  # (layers, 2, P, G * D)
        places = Tensor(slots.reshape(-1).astype(np.int32))
        for layer, (keys, values) in zip(self.transformer.encoder.layers, rows, strict=True):
            cached = layer.self_attention.cached_attention
            for table, one in ((cached.key_cache, keys), (cached.value_cache, values)):
                every = np.tile(one, (len(slots), 1))  # (rows * P, G * D)
                cached.write(table, places, Tensor(every).astype(table.dtype))

    def copy_cache(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Copy keys and values of every layer from slots to slots, (P,) each."""
        places = [Tensor(slots.astype(np.int32)) for slots in (sources, targets)]
        for layer in self.transformer.encoder.layers:
            layer.self_attention.cached_attention.copy_slots(*places)
