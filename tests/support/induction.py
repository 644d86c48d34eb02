"""A GLM network of two layers whose weights are set by hand so that it finds and copies: an induction head.

Layer 0 lets every token see the code of the token before it, by rotary position alone; layer 1 looks for the
place that comes after an earlier occurrence of the current token, by content alone, and the head says which
token stands there. So the likeliest next token is the one that followed the current one where it stood before,
however long ago. Letters: C channels of a code, H = 3 C hidden (own code, code before, answer), D = 2 C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_in_files import GlmInFiles
from mindformers.models.glm2.glm2_native import native_network
from mindformers.ops.native.arrays import of_array
from mindformers.ops.native.network import NativeNetwork

CODE = 32  # C
VOCAB = 256
_UNIT = np.sqrt(3.0)  # of a code's elements: a row of H channels then has a mean square of 1
_BY_PLACE, _BY_CONTENT = 27.0, 40.0  # how sharply each layer attends


def config(**changes: Any) -> ChatGLM2Config:
    """Return the network's settings; the rotary base is that of GLM-4-9B-Chat."""
    return ChatGLM2Config(
        **{
            "num_layers": 2,
            "padded_vocab_size": VOCAB,
            "hidden_size": 3 * CODE,
            "ffn_hidden_size": 4,
            "kv_channels": 2 * CODE,
            "num_attention_heads": 1,
            "multi_query_group_num": 1,
            "seq_length": 1024,
            "rope_ratio": 500,
            "layernorm_epsilon": 1e-12,
            "param_init_type": "float32",
            "compute_dtype": "float32",
            "num_blocks": 2**20,
            "eos_token_id": [],
            **changes,
        }
    )


def codes() -> np.ndarray:
    """Return a code (C,) of +-1 for every token."""
    return np.random.default_rng(0).choice([-1.0, 1.0], (VOCAB, CODE))


def frequencies(settings: ChatGLM2Config) -> np.ndarray:
    """Return what each rotated pair turns by from one position to the next."""
    return settings.rope_base ** (-np.arange(CODE // 2) / (CODE // 2))


def weights(settings: ChatGLM2Config) -> dict[str, np.ndarray]:
    """Return the weights by this library's names, float32."""
    hidden, size = 3 * CODE, 2 * CODE
    own, before, answer = (slice(i * CODE, (i + 1) * CODE) for i in range(3))
    eye = np.eye(CODE)
    turn = frequencies(settings)
    by_place, by_content = np.zeros((3 * size, hidden)), np.zeros((3 * size, hidden))
    bias = np.zeros(3 * size)
    # The query of a position is the key of the one before, turned on by one: cos and -sin of one step.
    bias[0:CODE:2], bias[1:CODE:2] = _BY_PLACE * np.cos(turn), -_BY_PLACE * np.sin(turn)
    bias[size : size + CODE : 2] = _BY_PLACE
    by_place[2 * size : 2 * size + CODE, own] = eye
    # From here on a row has two codes, so the norm divides by the root of 2.
    unit = np.sqrt(2.0) / _UNIT
    by_content[CODE:size, own] = _BY_CONTENT * unit * eye  # channels that do not rotate
    by_content[size + CODE : 2 * size, before] = unit * eye
    by_content[2 * size : 2 * size + CODE, own] = np.sqrt(2.0) * eye
    found = {
        "transformer.embedding.embedding_weight": np.pad(codes() * _UNIT, ((0, 0), (0, 2 * CODE))),
        "transformer.output_layer.weight": np.pad(codes(), ((0, 0), (2 * CODE, 0))),
        "transformer.encoder.final_layernorm.weight": np.ones(hidden),
    }
    for index, (qkv, where, shift) in enumerate(
        ((by_place, before, bias), (by_content, answer, np.zeros(3 * size)))
    ):
        dense = np.zeros((hidden, size))
        dense[where, :CODE] = eye
        layer = f"transformer.encoder.layers.{index}."
        found |= {
            layer + "input_layernorm.weight": np.ones(hidden),
            layer + "post_attention_layernorm.weight": np.ones(hidden),
            layer + "self_attention.query_key_value.weight": qkv,
            layer + "self_attention.query_key_value.bias": shift,
            layer + "self_attention.dense.weight": dense,
            layer + "mlp.dense_h_to_4h.weight": np.zeros((8, hidden)),
            layer + "mlp.dense_4h_to_h.weight": np.zeros((hidden, 4)),
        }
    return {name: value.astype(np.float32) for name, value in found.items()}


def cached(settings: ChatGLM2Config, ids: Sequence[int], first: int = 0) -> np.ndarray:
    """Return what the cache holds of some tokens once they are read, by the formulas above.

    Args:
        settings: The network's.
        ids: The tokens, with the one before them in front unless they are the first.
        first: Position of the first of them.

    Returns:
        (2, 2, S, 1, D) float32.
    """
    code = codes()[np.asarray(ids)]
    before = code[:-1] if first else np.concatenate([code[:1], code[:-1]])  # the first sees itself
    code = code[1:] if first else code  # (S, C)
    angle = (first + np.arange(len(code)))[:, None] * frequencies(settings)
    past = np.zeros((2, 2, len(code), 1, 2 * CODE), np.float32)
    past[0, 0, :, 0, 0:CODE:2] = _BY_PLACE * np.cos(angle)
    past[0, 0, :, 0, 1:CODE:2] = _BY_PLACE * np.sin(angle)
    past[1, 0, :, 0, CODE:] = before
    past[:, 1, :, 0, :CODE] = code * _UNIT
    return past


def native(settings: ChatGLM2Config) -> NativeNetwork:
    """Return the network for the native kernels."""
    return native_network(settings, {n: (of_array(a),) for n, a in weights(settings).items()})


def native_model(settings: ChatGLM2Config) -> GlmInFiles:
    """Return the network as a model that generates."""
    return GlmInFiles(settings, native(settings))
