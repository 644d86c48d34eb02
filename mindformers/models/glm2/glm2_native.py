"""A GLM network for the native kernels, from its weights by name. Needs no MindSpore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mindformers.checkpoint.quantized import held_scales
from mindformers.checkpoint.quantized_files import SCALES, ZEROS
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.ops.native.arrays import Buffer
from mindformers.ops.native.network import NativeNetwork
from mindformers.ops.native.weights import LayerWeights, LinearWeight, NetworkSizes, Vectors

Parts = Sequence[Buffer]
EMBEDDING = "transformer.embedding.embedding_weight"
HEAD = "transformer.output_layer.weight"
# Layers of one parent whose weights are one to the kernels.
_QKV, _GATE_UP = ("wq", "wk", "wv"), ("dense_left", "dense_right")
JOINED_LAYERS = (_QKV, _GATE_UP)


def native_network(
    config: ChatGLM2Config, weights: Mapping[str, Parts], vectors: Vectors | None = None
) -> NativeNetwork:
    """Return the network that computes with ``weights`` where they lie.

    Args:
        config: Its settings.
        weights: By parameter name, the pieces whose rows one after another are the weight. Of a
            quantized one also ``<name>.scales`` and, where it has them, ``<name>.zeros``.
        vectors: Makes the copies of norms and biases, and can renew them.
    """
    sizes = NetworkSizes(
        hidden=config.hidden_size,
        heads=config.num_heads,
        groups=config.n_kv_heads,
        head_dim=config.kv_channels,
        rotary_dim=config.rotary_dim,
        ffn=config.ffn_hidden_size,
        vocab=config.vocab_size,
        eps=config.layernorm_epsilon,
        block_size=config.block_size,
    )
    vectors = vectors or Vectors()
    layers = [_layer(config, weights, vectors, index) for index in range(config.num_layers)]
    return NativeNetwork(
        sizes,
        layers,
        _linear(config, weights, [EMBEDDING]),
        _linear(config, weights, [HEAD]),
        vectors.take(weights["transformer.encoder.final_layernorm.weight"]),
        config.rotary(config.seq_length),
        config.kv_cache_dtype or _compute(config),
    )


def with_merged(held: Mapping[str, Buffer], merged: Mapping[str, Buffer]) -> dict[str, Buffer]:
    """Return a network's parameters under the names ``native_network`` takes, some replaced by merged copies."""
    found = dict(held)
    for name in held:  # of weights in few bits the scales follow; a merged copy is float32
        scales = found.pop(held_scales(name), None) if name.endswith("weight") else None
        if scales is not None and name not in merged:
            found[name + SCALES] = scales
    return {**found, **merged}


def _layer(
    config: ChatGLM2Config, weights: Mapping[str, Parts], vectors: Vectors, index: int
) -> LayerWeights:
    prefix = f"transformer.encoder.layers.{index}."

    def joined(names: Sequence[str], has_bias: bool = False) -> LinearWeight:
        bias = None
        if has_bias:
            pieces = [part for name in names for part in weights[f"{prefix}{name}.bias"]]
            bias = vectors.take(pieces)
        return _linear(config, weights, [f"{prefix}{name}.weight" for name in names], bias)

    def norm(name: str, is_there: bool = True) -> np.ndarray | None:
        return vectors.take(weights[f"{prefix}{name}.weight"]) if is_there else None

    qkv = ("query_key_value",) if config.qkv_concat else _QKV
    gate_up = ("dense_h_to_4h",) if config.mlp_concat else _GATE_UP
    return LayerWeights(
        input_norm=vectors.take(weights[f"{prefix}input_layernorm.weight"]),
        mlp_norm=vectors.take(weights[f"{prefix}post_attention_layernorm.weight"]),
        qkv=joined([f"self_attention.{name}" for name in qkv], config.add_qkv_bias),
        dense=joined(["self_attention.dense"]),
        gate_up=joined([f"mlp.{name}" for name in gate_up]),
        down=joined(["mlp.dense_4h_to_h"]),
        after_attention=norm("post_self_attn_layernorm", config.post_self_attn_layernorm),
        after_mlp=norm("post_mlp_layernorm", config.post_mlp_layernorm),
    )


def _linear(
    config: ChatGLM2Config,
    weights: Mapping[str, Parts],
    names: Sequence[str],
    bias: np.ndarray | None = None,
) -> LinearWeight:
    def joined(end: str = "") -> tuple[Buffer, ...]:
        return tuple(part for name in names for part in weights.get(name + end, ()))

    return LinearWeight(joined(), bias, joined(SCALES), joined(ZEROS), compute=_compute(config))


def _compute(config: ChatGLM2Config) -> str:
    return "bfloat16" if config.compute_dtype == "bfloat16" else "float32"
