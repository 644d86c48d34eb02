"""Names and weights of Hugging Face as ours, file by file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindformers.errors import CheckpointError
from mindformers.models.glm2 import glm2_weights
from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration as Network
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_names import our_name
from tests.support.model_dir import write_model_dir

SIZES = {
    "num_layers": 1, "padded_vocab_size": 64, "hidden_size": 8, "ffn_hidden_size": 6,
    "kv_channels": 4, "num_attention_heads": 2, "multi_query_group_num": 1,
}  # fmt: skip
LAYER = "transformer.encoder.layers.0."


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("model.embed_tokens.weight", "transformer.embedding.embedding_weight"),
        (
            "transformer.embedding.word_embeddings.weight",
            "transformer.embedding.embedding_weight",
        ),
        (
            "model.layers.11.self_attn.q_proj.bias",
            "transformer.encoder.layers.11.self_attention.wq.bias",
        ),
        (
            "model.layers.0.self_attn.o_proj.weight",
            "transformer.encoder.layers.0.self_attention.dense.weight",
        ),
        (
            "model.layers.39.mlp.gate_up_proj.weight",
            "transformer.encoder.layers.39.mlp.dense_h_to_4h.weight",
        ),
        (
            "model.layers.3.post_mlp_layernorm.weight",
            "transformer.encoder.layers.3.post_mlp_layernorm.weight",
        ),
        ("model.norm.weight", "transformer.encoder.final_layernorm.weight"),
        ("lm_head.weight", "transformer.output_layer.weight"),
        ("transformer.output_layer.weight", "transformer.output_layer.weight"),
        ("something.else", "something.else"),
    ],
)
def test_a_name_becomes_ours(theirs: str, ours: str) -> None:
    assert our_name(theirs) == Network.convert_name(theirs) == ours


def test_every_published_name_is_one_of_the_networks(tmp_path: Path, pynative: None) -> None:
    write_model_dir(tmp_path / "ours")
    network = Network.from_pretrained(tmp_path / "ours")
    for layout in ("glm", "chatglm"):
        folder = tmp_path / layout
        glm2_weights.save_weights(network.weight_parameters(), network.config, folder, layout)
        names = Network.obtain_name_map(sorted(folder.glob("*.safetensors")))
        files = Network.convert_map_dict(dict.fromkeys(names.values(), "a"), qkv_concat=True)
        assert set(files) == set(network.weight_parameters())
    assert all(Network.convert_name(theirs) == ours for ours, theirs in names.items())


def test_weights_are_fused_as_the_configuration_has_them() -> None:
    rows = {"q": np.full((8, 8), 1.0), "k": np.full((4, 8), 2.0), "v": np.full((4, 8), 3.0)}
    source = {f"model.layers.0.self_attn.{n}_proj.weight": a for n, a in rows.items()}
    found = Network.convert_weight_dict(source, model_config=ChatGLM2Config(**SIZES))
    assert list(found) == [f"{LAYER}self_attention.query_key_value.weight"]
    assert np.array_equal(next(iter(found.values())), np.concatenate(list(rows.values())))
    split = ChatGLM2Config(**SIZES, qkv_concat=False, mlp_concat=False)
    assert list(Network.convert_weight_dict(source, split)) == [
        f"{LAYER}self_attention.w{n}.weight" for n in "qkv"
    ]


def test_weights_are_split_as_the_configuration_has_them() -> None:
    whole = np.arange(12 * 8, dtype=np.float32).reshape(12, 8)
    config = ChatGLM2Config(**SIZES, mlp_concat=False)
    found = Network.convert_weight_dict({"model.layers.0.mlp.gate_up_proj.weight": whole}, config)
    assert np.array_equal(found[f"{LAYER}mlp.dense_left.weight"], whole[:6])
    assert np.array_equal(found[f"{LAYER}mlp.dense_right.weight"], whole[6:])
    with pytest.raises(CheckpointError, match="has 10 rows, the configuration 12"):
        Network.convert_weight_dict({"model.layers.0.mlp.gate_up_proj.weight": whole[:10]}, config)


def test_parts_wait_for_their_fellows_from_another_file() -> None:
    config = ChatGLM2Config(**SIZES)
    parts = {f"model.layers.0.self_attn.{n}_proj.bias": np.ones(4) for n in "qkv"}
    first, *rest = parts.items()
    with pytest.raises(CheckpointError, match=r"the other parts of .*wq\.bias are not among these"):
        Network.convert_weight_dict(dict([first]), config)
    waiting: dict[str, np.ndarray] = {}
    assert Network.convert_weight_dict(dict([first]), config, qkv_dict=waiting) == {}
    found = Network.convert_weight_dict(dict(rest), config, qkv_dict=waiting, condition=None)
    assert found[f"{LAYER}self_attention.query_key_value.bias"].shape == (12,)
    assert waiting == {}
    assert Network.obtain_qkv_ffn_concat_keys() == ["query_key_value", "dense_h_to_4h"]
