"""``ChatGLM2Config``: the settings of GLM-2, GLM-3 and GLM-4 networks and what follows from them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mindformers.config.model import Glm2ModelSection
from mindformers.config.pet import AnyPet, pet_of
from mindformers.models.base_config import PretrainedConfig
from mindformers.models.glm2.glm4_tokens import SPECIAL_TOKENS
from mindformers.ops.rotary_table import RotaryTable, Yarn
from mindformers.registry import MindFormerModuleType, MindFormerRegister

ROPE_BASE = 10000.0  # modeling_chatglm.py: RotaryEmbedding


@MindFormerRegister.register(MindFormerModuleType.CONFIG)
class ChatGLM2Config(PretrainedConfig):
    """Settings of a GLM network; fields and defaults are those of ``Glm2ModelSection``."""

    model_type: ClassVar[str] = "glm2"
    section = Glm2ModelSection

    @property
    def num_heads(self) -> int:
        """Query heads."""
        return int(self.num_attention_heads)

    @property
    def n_kv_heads(self) -> int:
        """Key/value heads."""
        return int(
            self.multi_query_group_num if self.multi_query_attention else self.num_attention_heads
        )

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding and the head."""
        return int(self.padded_vocab_size)

    @property
    def rotary_dim(self) -> int:
        """Rotated channels of a head: half of them."""
        return int(self.kv_channels) // 2

    @property
    def rope_base(self) -> float:
        """Wavelength base of the rotary table."""
        return ROPE_BASE * float(self.rope_ratio)

    def rotary(self, num_positions: int) -> RotaryTable:
        """Return the angles of the first positions, formed as they are asked for."""
        scaling = dict(self.rope_scaling or {})
        scaling.pop("rope_type", None)
        yarn = Yarn(**scaling) if scaling else None
        return RotaryTable(num_positions, self.rotary_dim, self.rope_base, yarn)

    def rotary_table(self, num_positions: int) -> np.ndarray:
        """Return cos and sin of the first positions, (num_positions, rotary_dim / 2, 2) float32."""
        table = self.rotary(num_positions)
        table.form(num_positions)
        return table.rows

    @property
    def pet(self) -> AnyPet | None:
        """What is trained beside frozen weights; None: the weights themselves."""
        return pet_of(self)

    @property
    def eos_token_ids(self) -> list[int]:
        """The ids that end an answer, always as a list."""
        eos = self.eos_token_id
        return list(eos) if isinstance(eos, list) else [eos]

    @property
    def num_used_tokens(self) -> int | None:
        """Ids that stand for a token, where the settings tell: GLM-4's pad is the first of 14 special tokens.

        The rows of the embedding after them are padding and must never be produced.
        """
        last = int(self.pad_token_id) + len(SPECIAL_TOKENS)
        known = self.pad_token_id in self.eos_token_ids and last <= self.vocab_size
        return last if known else None
