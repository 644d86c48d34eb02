"""One block written by the original implementation: full forward and cached decoding, to 1e-6."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor

from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from tests.support.compare import assert_close
from tests.support.networks import ints
from tests.support.shared import shared_file

pytestmark = pytest.mark.parity
LAYER = "transformer.encoder.layers.0."
WEIGHTS = {
    "transformer.embedding.embedding_weight": (5, 32),
    LAYER + "input_layernorm.weight": (32,),
    LAYER + "self_attention.query_key_value.weight": (48, 32),
    LAYER + "self_attention.query_key_value.bias": (48,),
    LAYER + "self_attention.dense.weight": (32, 32),
    LAYER + "post_attention_layernorm.weight": (32,),
    LAYER + "mlp.dense_h_to_4h.weight": (96, 32),
    LAYER + "mlp.dense_4h_to_h.weight": (32, 48),
    "transformer.encoder.final_layernorm.weight": (32,),
}


class Reader:
    """Arrays of the file, one after the other."""

    def __init__(self) -> None:
        self.raw, self.offset = shared_file("data/glm4_block_golden.bin").read_bytes(), 0

    def take(self, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
        array = np.frombuffer(self.raw, dtype, int(np.prod(shape)), self.offset).reshape(shape)
        self.offset += array.nbytes
        return array.copy()


def load() -> tuple[ChatGLM2ForConditionalGeneration, list[tuple[np.ndarray, np.ndarray]]]:
    reader = Reader()
    network = ChatGLM2ForConditionalGeneration(
        ChatGLM2Config(
            num_layers=1,
            padded_vocab_size=5,
            hidden_size=32,
            num_attention_heads=8,
            multi_query_group_num=2,
            ffn_hidden_size=48,
            kv_channels=4,
            layernorm_epsilon=1.5625e-07,
            seq_length=16,
            block_size=4,
            param_init_type="float32",
            compute_dtype="float32",
        )
    )
    parameters = network.weight_parameters()
    for name, shape in WEIGHTS.items():
        parameters[name].set_data(Tensor(reader.take(shape)))
    steps = []
    for tokens in (3, 1, 1):
        ids = reader.take((1, tokens), np.int32)
        steps.append((ids, reader.take((1, tokens, 32))))
    assert reader.offset == len(reader.raw)
    network.set_train(False)
    return network, steps


def test_full_forward_equals_the_original_block(mode: int) -> None:
    network, steps = load()
    hidden = network.transformer(ints(np.concatenate([ids for ids, _ in steps], axis=1)))
    assert_close(
        hidden.asnumpy().reshape(1, 5, 32), np.concatenate([y for _, y in steps], axis=1), 1e-6
    )


def test_cached_decoding_equals_the_original_block(pynative: None) -> None:
    network, steps = load()
    network.allocate_cache(4)
    slots, start = np.array([8, 9, 10, 11, 4]), 0
    for ids, expected in steps:
        stop = start + ids.shape[1]
        hidden = network.transformer.with_cache(
            ints(ids),
            ints(np.arange(start, stop)[None]),
            ints(slots[start:stop]),
            ints([[2, 1]]),
            ints([stop]),
        )
        assert_close(
            hidden.asnumpy().reshape(expected.shape),
            expected,
            1e-6,
            f"positions {start}..{stop - 1}",
        )
        start = stop
