"""A model directory for tests: a network of two layers with random weights and the tiny vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mindspore as ms

from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from tests.support.vocab import write_tiny_vocab


def tiny_settings(tokenizer: ChatGLM4Tokenizer, **changes: Any) -> dict[str, Any]:
    """Return settings of a network that knows the tokenizer's ids."""
    special = tokenizer.special_tokens
    return {
        "num_layers": 2,
        "padded_vocab_size": -(-len(tokenizer) // 32) * 32,
        "hidden_size": 32,
        "ffn_hidden_size": 48,
        "kv_channels": 8,
        "num_attention_heads": 4,
        "multi_query_group_num": 2,
        "layernorm_epsilon": 1.5625e-07,
        "seq_length": 96,
        "param_init_type": "float32",
        "compute_dtype": "float32",
        "block_size": 4,
        "num_blocks": 256,
        "eos_token_id": [special["<|endoftext|>"], special["<|user|>"], special["<|observation|>"]],
        "pad_token_id": special["<|endoftext|>"],
        **changes,
    }


def write_model_dir(folder: Path, **changes: Any) -> Path:
    """Write a model directory as ``save_pretrained`` does; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = ChatGLM4Tokenizer(
        str(write_tiny_vocab(folder)), chat_template=changes.pop("chat_template", None)
    )
    ms.set_seed(7)
    network = ChatGLM2ForConditionalGeneration(
        ChatGLM2Config(**tiny_settings(tokenizer, **changes))
    )
    for parameter in network.weight_parameters().values():
        if parameter.ndim > 1:  # wider than the initial 0.01, so that likeliest tokens are clear
            parameter.set_data(parameter * 8)
    network.save_pretrained(folder, tokenizer=tokenizer)
    return folder
