"""``config.json`` of a GLM directory to ``ChatGLM2Config`` and back.

``chatglm`` is the layout of the original remote-code repositories, ``glm`` (``glm4`` with the two
extra norms) that of the Hugging Face library, ``glm2`` our own. No code named in a ``config.json``
is ever loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mindformers.errors import CheckpointError, ConfigError, did_you_mean
from mindformers.logger import warn_once
from mindformers.models.glm2.glm2_config import ROPE_BASE, ChatGLM2Config

Layout = Literal["glm", "chatglm"]
MODEL_TYPES = ("chatglm", "glm", "glm4", "glm2")
# Fields that change what the weights compute; a file and a run that differ here cannot go together.
MODEL_FIELDS = (
    "num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size", "kv_channels",
    "num_attention_heads", "n_kv_heads", "add_qkv_bias", "layernorm_epsilon", "rope_ratio",
    "post_self_attn_layernorm", "post_mlp_layernorm",
)  # fmt: skip
GLM4_EOS = [151329, 151336, 151338]  # <|endoftext|> <|user|> <|observation|>
GLM4_VOCAB = 151552
_SUSPECT_LENGTH = 131072  # seq_length of glm-4-9b-chat, whose rope_theta is 5,000,000

_HF_FIELDS = {  # Hugging Face key -> ours, same value
    "vocab_size": "padded_vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "multi_query_group_num",
    "max_position_embeddings": "seq_length",
    "rms_norm_eps": "layernorm_epsilon",
    "attention_bias": "add_qkv_bias",
}
_HF_DEFAULTS = {  # what the Hugging Face library fills in for an absent key: GlmConfig
    "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
    "num_attention_heads": 32, "num_key_value_heads": 2, "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-07, "attention_bias": True,
}  # fmt: skip
_CHATGLM_FIELDS = (
    "num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size", "kv_channels",
    "num_attention_heads", "seq_length", "layernorm_epsilon", "rope_ratio", "add_qkv_bias",
    "multi_query_attention", "multi_query_group_num", "apply_query_key_layer_scaling",
    "attention_softmax_in_fp32", "fp32_residual_connection", "bias_dropout_fusion",
    "post_self_attn_layernorm", "post_mlp_layernorm",
)  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {  # key -> the values under which the network is ours
    "hidden_act": ("silu",),
    "rmsnorm": (True,),
    "post_layer_norm": (True,),
    "original_rope": (True,),
    "add_bias_linear": (False,),
    "apply_residual_connection_post_layernorm": (False,),
    "quantization_bit": (0, None),
    "pre_seq_len": (None, 0),
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
    kind = content.get("model_type")
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
    try:
        return ChatGLM2Config(**fields, param_init_type=dtype, compute_dtype=dtype)
    except ConfigError as error:
        raise ConfigError(error.found, where=where, allowed=error.allowed, fix=error.fix) from error


def _token_ids(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids that end and pad; absent ones are GLM-4's where the vocabulary is GLM-4's."""
    vocabulary = content.get("padded_vocab_size", content.get("vocab_size", GLM4_VOCAB))
    ids: dict[str, Any] = {}
    if vocabulary == GLM4_VOCAB:
        ids = {"eos_token_id": list(GLM4_EOS), "pad_token_id": GLM4_EOS[0]}
    for key in ("eos_token_id", "pad_token_id"):
        if content.get(key) is not None:
            ids[key] = content[key]
    return ids


def _from_chatglm(content: Mapping[str, Any]) -> dict[str, Any]:
    fields = {key: content[key] for key in _CHATGLM_FIELDS if key in content}
    if "num_layers" not in fields and "num_hidden_layers" in content:
        fields["num_layers"] = content["num_hidden_layers"]
    return fields


def _from_glm(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    fields = {ours: content.get(key, _HF_DEFAULTS[key]) for key, ours in _HF_FIELDS.items()}
    if fields["multi_query_group_num"] is None:
        fields["multi_query_group_num"] = fields["num_attention_heads"]
    heads = fields["num_attention_heads"]
    fields["kv_channels"] = content.get("head_dim") or (
        128 if "hidden_size" not in content else fields["hidden_size"] // heads
    )
    fields["rope_ratio"] = _rope_ratio(content, fields["seq_length"], where)
    if content["model_type"] == "glm4":
        fields |= {"post_self_attn_layernorm": True, "post_mlp_layernorm": True}
    return fields


def _rope_ratio(content: Mapping[str, Any], seq_length: int, where: str) -> float:
    """Return rope_theta / 10000 from the new (``rope_parameters``) or the old keys."""
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ConfigError(
            f"rope_type {kind!r}",
            where=where,
            allowed="'default'",
            fix="remove the scaling from config.json to run within the trained length",
        )
    factor = rope.get("partial_rotary_factor", content.get("partial_rotary_factor", 0.5))
    if factor != 0.5:
        raise ConfigError(f"partial_rotary_factor {factor}", where=where, allowed="0.5")
    theta = rope.get("rope_theta", content.get("rope_theta", ROPE_BASE))
    ratio = theta / ROPE_BASE
    if ratio == 1 and seq_length >= _SUSPECT_LENGTH and content["model_type"] == "glm":
        warn_once(
            "%s: rope_theta 10000 with max_position_embeddings %d: some published converters lose "
            "rope_ratio; glm-4-9b-chat needs rope_theta 5000000, glm-4-9b-chat-1m 100000000",
            where,
            seq_length,
        )
    return int(ratio) if ratio == int(ratio) else ratio


def config_to_hf(
    config: ChatGLM2Config, layout: Layout = "glm", dtype: str | None = None
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
        return _to_chatglm(config, dtype or config.param_init_type)
    if layout != "glm":
        raise ConfigError(f"layout {layout!r}", allowed="glm or chatglm")
    sandwich = (config.post_self_attn_layernorm, config.post_mlp_layernorm)
    if sandwich not in ((False, False), (True, True)):
        raise ConfigError(
            f"post_self_attn_layernorm {sandwich[0]} with post_mlp_layernorm {sandwich[1]}",
            allowed="both or neither in the glm layout",
            fix="use --layout chatglm",
        )
    kind, name = ("glm4", "Glm4ForCausalLM") if sandwich[0] else ("glm", "GlmForCausalLM")
    theta = config.rope_base
    rotary = {"partial_rotary_factor": 0.5, "rope_theta": theta}
    content = {"architectures": [name], "model_type": kind}
    content |= {key: getattr(config, ours) for key, ours in _HF_FIELDS.items()}
    return content | {
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.kv_channels,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "rope_parameters": {"rope_type": "default", **rotary},
        **rotary,  # older releases of the library read these two from here
        "tie_word_embeddings": False,
        "use_cache": True,
        "eos_token_id": config.eos_token_ids,
        "pad_token_id": config.pad_token_id,
        "torch_dtype": dtype or config.param_init_type,
    }


def _to_chatglm(config: ChatGLM2Config, dtype: str) -> dict[str, Any]:
    content = {"architectures": ["ChatGLMModel"], "model_type": "chatglm"}
    content |= {key: getattr(config, key) for key in _CHATGLM_FIELDS}
    for flag in ("post_self_attn_layernorm", "post_mlp_layernorm"):
        if not content[flag]:
            del content[flag]  # the original has no such key
    return content | {
        "add_bias_linear": False,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "num_hidden_layers": config.num_layers,
        "original_rope": True,
        "post_layer_norm": True,
        "rmsnorm": True,
        "tie_word_embeddings": False,
        "use_cache": True,
        "eos_token_id": config.eos_token_ids,
        "pad_token_id": config.pad_token_id,
        "torch_dtype": dtype,
    }


def model_differences(run: ChatGLM2Config, stored: ChatGLM2Config) -> list[tuple[str, Any, Any]]:
    """Return (field, run's value, stored value) where the two change what weights compute."""
    found = []
    for field in MODEL_FIELDS:
        ours, theirs = getattr(run, field), getattr(stored, field)
        if ours != theirs:
            name = "multi_query_group_num" if field == "n_kv_heads" else field
            found.append((name, ours, theirs))
    return found


def model_name(config: ChatGLM2Config) -> str:
    """Return which published model has these sizes, or an empty string; for hints in errors."""
    sizes = (
        config.num_layers,
        config.hidden_size,
        config.ffn_hidden_size,
        config.padded_vocab_size,
    )
    if sizes == (28, 4096, 13696, 65024):
        return "glm3-6b or chatglm2-6b"
    if sizes != (40, 4096, 13696, GLM4_VOCAB):
        return ""
    if config.post_mlp_layernorm:
        return "GLM-4-9B-0414"
    by_rope = {500: "glm-4-9b-chat", 10000: "glm-4-9b-chat-1m", 1: "glm-4-9b"}
    if config.n_kv_heads == 4:
        return "glm-4-9b-chat-1m"
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
    differences = model_differences(config, stored)
    if differences:
        lines = [
            f"  {name}: {ours!r} in the run, {theirs!r} in config.json"
            for name, ours, theirs in differences
        ]
        name = model_name(stored)
        raise CheckpointError(
            "config.json and the run's model_config disagree\n" + "\n".join(lines),
            where=where,
            fix="\nchange model_config to match"
            + (f": this is {name}" if name else " or load other weights"),
        )


def is_tied(content: Mapping[str, Any] | None) -> bool:
    """Tell whether a ``config.json`` says that the head is the embedding."""
    return bool(content and content.get("tie_word_embeddings"))
