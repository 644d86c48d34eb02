"""Networks for tests: the golden cases as this library builds them."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from tests.support.golden_model import GoldenCase, huggingface_weights, our_weights


def golden_config(case: GoldenCase, **changes: Any) -> ChatGLM2Config:
    """Return the settings of a golden case."""
    return ChatGLM2Config(
        **{
            "num_layers": case.layers,
            "padded_vocab_size": case.vocab,
            "hidden_size": case.hidden,
            "ffn_hidden_size": case.ffn,
            "kv_channels": case.head_dim,
            "num_attention_heads": case.heads,
            "multi_query_group_num": case.groups,
            "layernorm_epsilon": case.eps,
            "add_qkv_bias": case.has_bias,
            "post_self_attn_layernorm": case.has_after_norms,
            "post_mlp_layernorm": case.has_after_norms,
            "seq_length": 1024,
            "rope_ratio": case.rope_theta / 10000.0,
            "rope_scaling": case.rope_scaling,
            "param_init_type": "float32",
            "compute_dtype": "float32",
            "block_size": 4,
            "num_blocks": 1024,
            "eos_token_id": [],
            "pad_token_id": 0,
            **changes,
        }
    )


def golden_network(case: GoldenCase, **changes: Any) -> ChatGLM2ForConditionalGeneration:
    """Return the network of a golden case with its weights."""
    network = ChatGLM2ForConditionalGeneration(golden_config(case, **changes))
    weights = our_weights(huggingface_weights(case), case.layers)
    parameters = network.weight_parameters()
    assert set(parameters) == set(weights)
    for name, parameter in parameters.items():
        parameter.set_data(Tensor(weights[name]).astype(parameter.dtype))
    return network


def ints(array: Any) -> Tensor:
    """Return an int32 tensor."""
    return Tensor(np.asarray(array, np.int32), ms.int32)
