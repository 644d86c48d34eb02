"""Tiny GLM weights on disk, written name by name as each published layout has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mindformers.checkpoint.tensor_io import array_to_write, write_safetensors
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.hf_config import config_to_hf

DTYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
Arrays = dict[str, np.ndarray]


def tiny_config(**changes: Any) -> ChatGLM2Config:
    """Two layers, 4 query heads on 2 key/value heads of 4 channels, hidden 16, ffn 24, 48 ids."""
    fields: dict[str, Any] = {
        "num_layers": 2,
        "padded_vocab_size": 48,
        "hidden_size": 16,
        "ffn_hidden_size": 24,
        "kv_channels": 4,
        "num_attention_heads": 4,
        "multi_query_group_num": 2,
        "seq_length": 32,
        "layernorm_epsilon": 1.5625e-07,
        "eos_token_id": [44, 45, 46],
        "pad_token_id": 44,
        "param_init_type": "float32",
        "compute_dtype": "float32",
    }
    return ChatGLM2Config(**{**fields, **changes})


def glm_arrays(config: ChatGLM2Config, dtype: str = "fp32", seed: int = 0) -> Arrays:
    """Random weights under the Hugging Face library's names; every value differs."""
    rng = np.random.default_rng(seed)
    hidden, ffn, head = config.hidden_size, config.ffn_hidden_size, config.kv_channels
    query, key = config.num_attention_heads * head, config.n_kv_heads * head
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for i in range(config.num_layers):
        layer = f"model.layers.{i}."
        shapes |= {
            layer + "input_layernorm.weight": (hidden,),
            layer + "self_attn.q_proj.weight": (query, hidden),
            layer + "self_attn.q_proj.bias": (query,),
            layer + "self_attn.k_proj.weight": (key, hidden),
            layer + "self_attn.k_proj.bias": (key,),
            layer + "self_attn.v_proj.weight": (key, hidden),
            layer + "self_attn.v_proj.bias": (key,),
            layer + "self_attn.o_proj.weight": (hidden, query),
            layer + "post_attention_layernorm.weight": (hidden,),
            layer + "mlp.gate_up_proj.weight": (2 * ffn, hidden),
            layer + "mlp.down_proj.weight": (hidden, ffn),
        }
        if not config.add_qkv_bias:
            shapes = {n: s for n, s in shapes.items() if not n.endswith(".bias")}
        if config.post_mlp_layernorm:
            shapes[layer + "post_self_attn_layernorm.weight"] = (hidden,)
            shapes[layer + "post_mlp_layernorm.weight"] = (hidden,)
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (config.vocab_size, hidden)}
    return {name: rng.normal(size=s).astype(DTYPES[dtype]) for name, s in shapes.items()}


def chatglm_arrays(arrays: Arrays) -> Arrays:
    """The same weights as the original repositories store them, rotary table included."""
    result = {
        "transformer.embedding.word_embeddings.weight": arrays["model.embed_tokens.weight"],
        "transformer.rotary_pos_emb.inv_freq": np.ones(1, arrays["model.norm.weight"].dtype),
        "transformer.encoder.final_layernorm.weight": arrays["model.norm.weight"],
        "transformer.output_layer.weight": arrays["lm_head.weight"],
    }
    for i in range(layers_of(arrays)):
        old, new = f"model.layers.{i}.", f"transformer.encoder.layers.{i}."
        for part in parts_of(arrays):
            result[f"{new}self_attention.query_key_value.{part}"] = np.concatenate(
                [arrays[f"{old}self_attn.{x}_proj.{part}"] for x in "qkv"]
            )
        result[new + "self_attention.dense.weight"] = arrays[old + "self_attn.o_proj.weight"]
        result[new + "mlp.dense_h_to_4h.weight"] = arrays[old + "mlp.gate_up_proj.weight"]
        result[new + "mlp.dense_4h_to_h.weight"] = arrays[old + "mlp.down_proj.weight"]
        for name in arrays:
            if name.startswith(old) and name.endswith("layernorm.weight"):
                result[new + name[len(old) :]] = arrays[name]
    return result


def our_arrays(arrays: Arrays, *, concat: bool = True) -> Arrays:
    """The same weights under our names, fused or split."""
    result = chatglm_arrays(arrays)
    del result["transformer.rotary_pos_emb.inv_freq"]
    embedding = result.pop("transformer.embedding.word_embeddings.weight")
    result["transformer.embedding.embedding_weight"] = embedding
    if concat:
        return result
    for i in range(layers_of(arrays)):
        old, new = f"model.layers.{i}.", f"transformer.encoder.layers.{i}."
        for part in parts_of(arrays):
            del result[f"{new}self_attention.query_key_value.{part}"]
            for x in "qkv":
                value = arrays[f"{old}self_attn.{x}_proj.{part}"]
                result[f"{new}self_attention.w{x}.{part}"] = value
        fused = result.pop(new + "mlp.dense_h_to_4h.weight")
        half = len(fused) // 2
        result[new + "mlp.dense_left.weight"] = fused[:half]
        result[new + "mlp.dense_right.weight"] = fused[half:]
    return result


def parts_of(arrays: Arrays) -> list[str]:
    """What a projection of weights under the Hugging Face library's names has: a weight, and it may be a bias."""
    return [
        part for part in ("weight", "bias") if f"model.layers.0.self_attn.q_proj.{part}" in arrays
    ]


def layers_of(arrays: Arrays) -> int:
    """Number of layers of weights under the Hugging Face library's names."""
    return sum(name.endswith("o_proj.weight") for name in arrays)


def write_file(path: Path, arrays: Arrays) -> Path:
    """Write arrays as one safetensors file."""
    tensors = [array_to_write(name, array) for name, array in arrays.items()]
    return write_safetensors(path, tensors, {"format": "pt"})


def write_hf_directory(
    folder: Path, config: ChatGLM2Config, arrays: Arrays, layout: str = "glm", shards: int = 1
) -> Path:
    """Write a Hugging Face directory with a tokenizer's files, in one file or in shards."""
    folder.mkdir(parents=True)
    dtype = arrays[next(iter(arrays))].dtype.name
    (folder / "config.json").write_text(json.dumps(config_to_hf(config, layout, dtype)))
    (folder / "tokenizer.model").write_text("YQ== 0\n")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "[gMASK]<sop>"}')
    (folder / "generation_config.json").write_text('{"eos_token_id": [44, 45, 46], "top_p": 0.8}')
    if shards == 1:
        write_file(folder / "model.safetensors", arrays)
        return folder
    weight_map = {}
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(arrays.items())[number::shards])  # q, k and v end up in different shards
        write_file(folder / name, part)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def same_bytes(found: Arrays, expected: Arrays) -> bool:
    """Tell whether two sets of arrays have the same names, types, shapes and bytes."""
    return found.keys() == expected.keys() and all(
        found[n].dtype == expected[n].dtype
        and found[n].shape == expected[n].shape
        and found[n].tobytes() == expected[n].tobytes()
        for n in found
    )
