"""Models known by name: ``AutoConfig.from_pretrained("glm4_9b")`` needs no file."""

from __future__ import annotations

from typing import Any

from mindformers.logger import logger
from mindformers.models.glm2.glm4_tokens import END_IDS, PAD_ID
from mindformers.registry import MindFormerModuleType, MindFormerRegister

# ChatGLM2-6B and ChatGLM3-6B are the same network; configs/glm3/predict_glm3_6b.yaml.
_CHATGLM: dict[str, Any] = {
    "num_layers": 28,
    "padded_vocab_size": 65024,
    "seq_length": 2048,
    "layernorm_epsilon": 1e-5,
    "rope_ratio": 1,
    "compute_dtype": "float16",
    "param_init_type": "float16",
    "use_past": True,
    "use_flash_attention": True,
    "block_size": 16,
    "num_blocks": 128,
    "is_dynamic": True,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "max_decode_length": 256,
    "max_length": 256,
    "top_k": 1,
    "top_p": 1,
    "do_sample": False,
}
# Name -> (configuration class, its settings); those of configs/glm4/predict_glm4_9b_chat.yaml.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "glm4_9b": (
        "ChatGLM2Config",
        {
            "num_layers": 40,
            "padded_vocab_size": 151552,
            "seq_length": 8192,
            "layernorm_epsilon": 1.5625e-07,
            "rope_ratio": 500,
            "compute_dtype": "bfloat16",
            "param_init_type": "bfloat16",
            "use_past": True,
            "use_flash_attention": True,
            "block_size": 16,
            "num_blocks": 4096,
            "is_dynamic": True,
            "eos_token_id": list(END_IDS),
            "pad_token_id": PAD_ID,
            "max_decode_length": 512,
            "max_length": 8192,
            "top_k": 1,
            "top_p": 1,
            "do_sample": False,
        },
    ),
    **dict.fromkeys(("glm2_6b", "glm3_6b"), ("ChatGLM2Config", _CHATGLM)),
}


def preset_config(name: str, **overrides: Any) -> Any:
    """Return the configuration object of a model known by name, with some fields changed."""
    class_name, settings = PRESETS[name]
    config_class = MindFormerRegister.get_cls(MindFormerModuleType.CONFIG, class_name)
    return config_class(**{**settings, **overrides})


class SupportList:
    """What every ``Auto`` class and model answers about the models known by name."""

    @classmethod
    def get_support_list(cls) -> list[str]:
        """Return the names ``AutoConfig.from_pretrained`` knows without a file."""
        return list(PRESETS)

    @classmethod
    def show_support_list(cls) -> None:
        """Log those names."""
        logger.info("models known by name: %s", ", ".join(cls.get_support_list()))
