"""``ChatGLM2WithPtuning2``: upstream's class of a GLM network with a trained prefix."""

from __future__ import annotations

from mindformers.config.pet import Ptuning2Section
from mindformers.errors import ConfigError
from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.registry import MindFormerModuleType, MindFormerRegister


@MindFormerRegister.register(MindFormerModuleType.MODELS)
class ChatGLM2WithPtuning2(ChatGLM2ForConditionalGeneration):
    """A GLM of which only the keys and values before the first token are trained (P-tuning v2).

    Args:
        config: Settings with a ``pet_config`` of ``pet_type: ptuning2``, or with ``pre_seq_len``.

    Raises:
        ConfigError: If the settings describe no prefix.
    """

    def __init__(self, config: ChatGLM2Config):
        if not isinstance(config.pet, Ptuning2Section):
            raise ConfigError(
                "the settings describe no trained prefix",
                where="ChatGLM2WithPtuning2",
                allowed="pet_config: {pet_type: ptuning2, pre_seq_len: 128}, or pre_seq_len: 128",
                fix="set one of them under model.model_config, or take "
                "ChatGLM2ForConditionalGeneration",
            )
        super().__init__(config)
