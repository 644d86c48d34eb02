"""ChatGLM2 and ChatGLM3 directories as published: read, computed as by hand, and written back."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindformers import AutoModel, AutoTokenizer
from mindformers.models.auto import open_in_files
from mindformers.models.glm2.convert_reversed import convert_ms_to_pt
from mindformers.models.glm2.convert_weight import convert_pt_to_ms
from tests.support import numpy_glm
from tests.support.compare import MODEL_FP32, assert_close
from tests.support.networks import ints
from tests.support.sentence_pieces import write_tiny_model

pytestmark = pytest.mark.parity
SIZES = numpy_glm.Sizes(vocab=416)
WEIGHTS = numpy_glm.random_weights(SIZES)
DTYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
IDS = np.array([401, 403, 406, 13, 17, 99, 13, 250, 7, 407])
# The keys of the published chatglm2-6b/config.json, with small sizes.
CONFIG = {
    "_name_or_path": "THUDM/chatglm2-6b",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig"},
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "ffn_hidden_size": SIZES.ffn,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": SIZES.hidden,
    "kv_channels": SIZES.head_dim,
    "layernorm_epsilon": SIZES.eps,
    "multi_query_attention": True,
    "multi_query_group_num": SIZES.groups,
    "num_attention_heads": SIZES.heads,
    "num_layers": SIZES.layers,
    "original_rope": True,
    "padded_vocab_size": SIZES.vocab,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 64,
    "use_cache": True,
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def write_published(folder: Path, family: str = "chatglm2", dtype: str = "fp32") -> Path:
    """Write a directory as the original repositories have it, rotary table included."""
    folder.mkdir()
    arrays = {name: value.astype(DTYPES[dtype]) for name, value in WEIGHTS.items()}
    arrays["transformer.rotary_pos_emb.inv_freq"] = np.ones(2, DTYPES[dtype])
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    config = {**CONFIG, "_name_or_path": f"THUDM/{family}-6b"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "ChatGLMTokenizer"})
    )
    write_tiny_model(folder)
    return folder


def test_logits_are_those_worked_out_by_hand(tmp_path, mode, backend):
    network = AutoModel.from_pretrained(write_published(tmp_path / "m")).set_train(False)
    (found,) = network(ints(IDS[None]))
    assert_close(found.asnumpy()[0], numpy_glm.logits(WEIGHTS, SIZES, IDS), MODEL_FP32)


@pytest.mark.parametrize("place", ["network", "files"])
def test_the_cached_continuation_is_the_one_worked_out_by_hand(tmp_path, pynative, backend, place):
    folder = write_published(tmp_path / "m")
    if place == "network":
        model = AutoModel.from_pretrained(folder)
    else:
        model = open_in_files(folder)
        if model is None:
            pytest.skip("answers from the files need the native kernels")
    (answer,) = model.generate([IDS.tolist()], max_new_tokens=8, do_sample=False, eos_token_id=[])
    ids = IDS.copy()
    for _ in range(8):
        ids = np.append(ids, numpy_glm.logits(WEIGHTS, SIZES, ids)[-1].argmax())
    assert answer.tolist() == ids.tolist()


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_there_and_back_gives_the_same_bytes_without_the_rotary_table(tmp_path, dtype):
    source = write_published(tmp_path / "m", "chatglm3", dtype)
    there = convert_pt_to_ms(source, tmp_path / "ours", dtype)
    ours = load_file(there / "model.safetensors")
    assert "transformer.embedding.embedding_weight" in ours
    back = convert_ms_to_pt(there, tmp_path / "back", layout="chatglm")
    stored = load_file(back / "model.safetensors")
    assert set(stored) == set(WEIGHTS)
    for name, value in WEIGHTS.items():
        assert stored[name].tobytes() == value.astype(DTYPES[dtype]).tobytes(), name
    assert (back / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()
    # Only the name in the source's config.json told the family; what is written says it itself.
    assert type(AutoTokenizer.from_pretrained(there)).__name__ == "ChatGLM3Tokenizer"
    assert type(AutoTokenizer.from_pretrained(back)).__name__ == "ChatGLM3Tokenizer"
    described = json.loads((back / "config.json").read_text())
    for key in (
        "model_type",
        "padded_vocab_size",
        "num_layers",
        "layernorm_epsilon",
        "kv_channels",
    ):
        assert described[key] == CONFIG[key], key
    assert described["eos_token_id"] in (2, [2])


@pytest.mark.parametrize("family", ["chatglm2", "chatglm3"])
def test_a_published_directory_chats(tmp_path, pynative, family):
    folder = write_published(tmp_path / "m", family)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(tokenizer).__name__ == f"ChatGLM{family[-1]}Tokenizer"
    again = AutoTokenizer.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    assert type(again) is type(tokenizer)
    answer, history = model.chat(tokenizer, "你好", max_new_tokens=5)
    assert history == [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": answer},
    ]
    # The answer is what the network says after the family's prompt, worked out by hand.
    ids = np.array(tokenizer.apply_chat_template(history[:1], add_generation_prompt=True))
    length = len(ids)
    for _ in range(5):
        scores = numpy_glm.logits(WEIGHTS, SIZES, ids)[-1]
        scores[len(tokenizer) :] = -np.inf  # rows without a token
        ids = np.append(ids, scores.argmax())
        if ids[-1] in [tokenizer.get_command(token) for token in tokenizer.end_tokens]:
            break
    assert answer == tokenizer.decode(ids[length:], skip_special_tokens=True).strip()
