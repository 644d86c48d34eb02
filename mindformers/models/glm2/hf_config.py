"""``config.json`` of a GLM directory to ``ChatGLM2Config`` and back.

``chatglm`` is the original repositories' layout, ``glm`` (``glm4`` with two more norms) that of the
Hugging Face library, ``glm2`` ours. No code that a ``config.json`` names is ever loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers.config.loader import load_yaml
from mindformers.errors import CheckpointError, ConfigError, did_you_mean
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm4_tokens import END_IDS, PAD_ID
from mindformers.models.glm2.hf_rope import rope_from_hf, rope_to_hf, warn_beyond_trained

MODEL_TYPES = ("chatglm", "glm", "glm4", "glm2")
# Fields that change what the weights compute; a file and a run that differ here cannot go together.
MODEL_FIELDS = (
    "num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size", "kv_channels",
    "num_attention_heads", "n_kv_heads", "add_qkv_bias", "layernorm_epsilon", "rope_ratio",
    "post_self_attn_layernorm", "post_mlp_layernorm", "rope_scaling",
)  # fmt: skip
_SPELLED = {"n_kv_heads": "multi_query_group_num"}
GLM4_VOCAB = 151552
GLM4_IDS = {"eos_token_id": list(END_IDS), "pad_token_id": PAD_ID}

_HF_FIELDS = {  # Hugging Face key -> our field, and what that library takes for an absent key
    "vocab_size": ("padded_vocab_size", GLM4_VOCAB),
    "hidden_size": ("hidden_size", 4096),
    "intermediate_size": ("ffn_hidden_size", 13696),
    "num_hidden_layers": ("num_layers", 40),
    "num_attention_heads": ("num_attention_heads", 32),
    "num_key_value_heads": ("multi_query_group_num", 2),
    "max_position_embeddings": ("seq_length", 131072),
    "rms_norm_eps": ("layernorm_epsilon", 1.5625e-07),
    "attention_bias": ("add_qkv_bias", True),
}
_CHATGLM_FIELDS = (
    "num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size", "kv_channels",
    "num_attention_heads", "seq_length", "layernorm_epsilon", "rope_ratio", "add_qkv_bias",
    "multi_query_attention", "multi_query_group_num", "apply_query_key_layer_scaling",
    "attention_softmax_in_fp32", "fp32_residual_connection", "bias_dropout_fusion",
    "post_self_attn_layernorm", "post_mlp_layernorm", "rope_scaling",
)  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {  # key -> the values under which the network is ours
    "hidden_act": ("silu",),
    "rmsnorm": (True,),
    "post_layer_norm": (True,),
    "original_rope": (True,),
    "add_bias_linear": (False,),
    "apply_residual_connection_post_layernorm": (False,),
    "quantization_bit": (0, None),
    "quantization_config": (None,),
    "vision_config": (None,),
    "mlp_bias": (False, None),
}


def config_from_hf(content: Mapping[str, Any], where: str = "config.json") -> ChatGLM2Config:
    """Return the configuration a ``config.json`` describes.

    Args:
        content: The parsed file; its ``model_type`` is chatglm, glm, glm4 or our glm2.
        where: The file, for errors.

    Raises:
        ConfigError: If it is another kind of model, or asks for something the network does not do.
    """
    kind = "glm2" if content.get("type") == "ChatGLM2Config" else content.get("model_type")
    if kind not in MODEL_TYPES:
        raise ConfigError(
            f"model_type {kind!r} is no GLM-4 text model",
            where=where,
            allowed=", ".join(MODEL_TYPES),
            fix=did_you_mean(str(kind), MODEL_TYPES),
        )
    if kind == "glm2":
        skip = ("mindformers_config", "model_type", "architectures")
        return ChatGLM2Config(**{k: v for k, v in content.items() if k not in skip})
    for key, allowed in _NEUTRAL.items():
        if key in content and content[key] not in allowed:
            raise ConfigError(
                f"{key} {content[key]!r}",
                where=where,
                allowed=" or ".join(map(repr, allowed)),
                fix="this network is not implemented",
            )
    fields = _from_chatglm(content) if kind == "chatglm" else _from_glm(content, where)
    fields |= _token_ids(content)
    dtype = content.get("dtype") or content.get("torch_dtype") or "bfloat16"
    fields["num_blocks"] = _cache_blocks(fields.get("seq_length", 0))
    try:
        return ChatGLM2Config(**fields, param_init_type=dtype, compute_dtype=dtype)
    except ConfigError as error:
        raise ConfigError(error.found, where=where, allowed=error.allowed, fix=error.fix) from error


def _cache_blocks(length: int) -> int:
    """Return the blocks of a cache that has room for one text of full length; the files say nothing of it."""
    usual = ChatGLM2Config.section.model_fields
    return max(usual["num_blocks"].default, -(-length // usual["block_size"].default))


def _token_ids(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids that end and pad; absent ones are GLM-4's where the vocabulary is GLM-4's."""
    vocabulary = content.get("padded_vocab_size", content.get("vocab_size", GLM4_VOCAB))
    usual = GLM4_IDS if vocabulary == GLM4_VOCAB else {}
    return usual | {key: content[key] for key in GLM4_IDS if content.get(key) is not None}


def _from_chatglm(content: Mapping[str, Any]) -> dict[str, Any]:
    fields = {key: content[key] for key in _CHATGLM_FIELDS if key in content}
    prefix = ("pre_seq_len", "prefix_projection")  # a length of 0 is none
    fields |= {key: content[key] for key in prefix if content.get(key)}
    if "num_layers" not in fields and "num_hidden_layers" in content:
        fields["num_layers"] = content["num_hidden_layers"]
    return fields


def _from_glm(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    fields = {ours: content.get(key, usual) for key, (ours, usual) in _HF_FIELDS.items()}
    if fields["multi_query_group_num"] is None:
        fields["multi_query_group_num"] = fields["num_attention_heads"]
    fields["kv_channels"] = (
        content.get("head_dim", 128) or fields["hidden_size"] // fields["num_attention_heads"]
    )
    fields |= rope_from_hf(content, fields["seq_length"], where)
    if content["model_type"] == "glm4":
        fields |= {"post_self_attn_layernorm": True, "post_mlp_layernorm": True}
    return fields


def config_to_hf(
    config: ChatGLM2Config, layout: str = "glm", dtype: str | None = None
) -> dict[str, Any]:
    """Return the ``config.json`` of a Hugging Face directory.

    Args:
        config: The network's settings.
        layout: ``glm`` for the Hugging Face library, ``chatglm`` for the original's remote code.
        dtype: Type of the stored weights; None: the configuration's ``param_init_type``.

    Raises:
        ConfigError: If the layout is neither, or cannot say what the configuration asks for.
    """
    if layout == "chatglm":
        return _to_chatglm(config, dtype)
    if layout != "glm":
        raise ConfigError(f"layout {layout!r}", allowed="glm or chatglm")
    sandwich = config.post_self_attn_layernorm
    if sandwich != config.post_mlp_layernorm:
        raise ConfigError(
            "only one of post_self_attn_layernorm and post_mlp_layernorm",
            allowed="both or neither in the glm layout",
            fix="use --layout chatglm",
        )
    kind, name = ("glm4", "Glm4ForCausalLM") if sandwich else ("glm", "GlmForCausalLM")
    return {
        "architectures": [name],
        "model_type": kind,
        **{key: getattr(config, ours) for key, (ours, _) in _HF_FIELDS.items()},
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.kv_channels,
        "hidden_act": "silu",
        **rope_to_hf(config),
        **_common(config, dtype),
    }


def _common(config: ChatGLM2Config, dtype: str | None) -> dict[str, Any]:
    return {
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        **generation_settings(config),
        "torch_dtype": dtype or config.param_init_type,
    }


def generation_settings(config: ChatGLM2Config) -> dict[str, Any]:
    """Return the ``generation_config.json`` without which a model does not stop at its end ids."""
    return {"eos_token_id": config.eos_token_ids, "pad_token_id": config.pad_token_id}


def _to_chatglm(config: ChatGLM2Config, dtype: str | None) -> dict[str, Any]:
    fields = {key: getattr(config, key) for key in _CHATGLM_FIELDS}
    for flag in ("post_self_attn_layernorm", "post_mlp_layernorm", "rope_scaling"):
        if not fields[flag]:
            del fields[flag]  # the original has no such key
    return {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        **fields,
        "add_bias_linear": False,
        "apply_residual_connection_post_layernorm": False,
        "hidden_dropout": 0.0,
        "num_hidden_layers": config.num_layers,
        "original_rope": True,
        "post_layer_norm": True,
        "rmsnorm": True,
        **_common(config, dtype),
    }


def model_name(config: ChatGLM2Config) -> str:
    """Return which published model has these sizes, or an empty string; for hints in errors."""
    sizes = (config.num_layers, config.hidden_size, config.ffn_hidden_size)
    if config.post_mlp_layernorm:
        size = {(40, 4096, 13696): "9B", (61, 6144, 23040): "32B"}.get(sizes)
        return f"GLM-4-{size}-0414 or GLM-Z1-{size}-0414" if size else ""
    if sizes[1:] != (4096, 13696):
        return ""
    if (config.num_layers, config.padded_vocab_size) == (28, 65024):
        return "glm3-6b or chatglm2-6b"
    if (config.num_layers, config.padded_vocab_size) != (40, GLM4_VOCAB):
        return ""
    if config.n_kv_heads == 4:
        return "glm-4-9b-chat-1m"
    by_rope = {500: "glm-4-9b-chat", 1: "glm-4-9b"}
    return by_rope.get(config.rope_ratio, "glm-4-9b or glm-4-9b-chat")


def check_against_config(
    config: ChatGLM2Config, content: Mapping[str, Any] | None, where: str
) -> None:
    """Compare the run's configuration with the ``config.json`` beside the weights.

    Raises:
        CheckpointError: If a field that changes what the weights compute differs; it shows both.
    """
    if content is None:
        return
    stored = config_from_hf(content, where)
    lines = [
        f"  {_SPELLED.get(name, name)}: {getattr(config, name)!r} in the run, "
        f"{getattr(stored, name)!r} with the weights"
        for name in MODEL_FIELDS
        if getattr(config, name) != getattr(stored, name)
        # A run may reach beyond the trained length of weights that know nothing of it, not fall short of it.
        and (name != "rope_scaling" or stored.rope_scaling is not None)
    ]
    if lines:
        name = f" (this is {model_name(stored)})" if model_name(stored) else ""
        text = f"disagrees with the run's model_config{name}; change it or load other weights"
        raise CheckpointError("\n".join([text, *lines]), where=where)
    warn_beyond_trained(config, stored.seq_length, where)


def is_tied(content: Mapping[str, Any] | None) -> bool:
    """Tell whether a ``config.json`` says that the head is the embedding."""
    return bool(content and content.get("tie_word_embeddings"))


def network_config(
    content: Mapping[str, Any] | None, where: str, yaml_path: str | Path | None
) -> ChatGLM2Config:
    """Return the settings of the weights at hand: from a run's YAML, else from ``config.json``.

    Args:
        content: The ``config.json`` beside the weights, if there is one.
        where: Where it lies or would lie.
        yaml_path: A run's YAML with ``model.model_config``, or None.

    Raises:
        MindFormersError: If there is neither, or the two disagree on what the weights compute.
    """
    if yaml_path is None:
        if content is None:
            raise ConfigError("not found", where=where, fix="give the run's YAML with --config")
        return config_from_hf(content, where)
    model = load_yaml(yaml_path).data.get("model")
    section = model.get("model_config") if isinstance(model, dict) else None
    if not isinstance(section, dict) or section.get("type") not in (None, "ChatGLM2Config"):
        raise ConfigError("model.model_config is no ChatGLM2Config", where=str(yaml_path))
    config = ChatGLM2Config(**section)
    check_against_config(config, content, where)
    return config
