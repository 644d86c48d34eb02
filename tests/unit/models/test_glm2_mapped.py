from __future__ import annotations

import json

import numpy as np
import pytest

from mindformers.checkpoint.ckpt_io import write_ckpt
from mindformers.checkpoint.dtypes import BY_NAME
from mindformers.checkpoint.manifest import write_step_folder
from mindformers.checkpoint.tensor_io import array_to_write
from mindformers.errors import CheckpointError
from mindformers.models.glm2.glm2_mapped import mapped_weights
from mindformers.models.glm2.glm2_weights import load_pretrained
from tests.support.glm_files import (
    chatglm_arrays,
    glm_arrays,
    our_arrays,
    same_bytes,
    tiny_config,
    write_file,
    write_hf_directory,
)

CONFIG = tiny_config()
QKV = "transformer.encoder.layers.1.self_attention.query_key_value.weight"


def joined(weights):
    """The mapped parts as the parameters they form, in their own element types."""
    return {
        name: np.concatenate([p.array.view(BY_NAME[p.dtype].numpy) for p in parts])
        for name, parts in weights.items()
    }


def write_source(folder, layout, arrays, config=CONFIG):
    if layout in ("glm", "chatglm"):
        arrays = arrays if layout == "glm" else chatglm_arrays(arrays)
        return write_hf_directory(folder / "hf", config, arrays, layout, shards=2)
    ours = our_arrays(arrays, concat=layout != "ours split")
    if layout == "step":
        writers = {"model.safetensors": lambda p: write_file(p, ours)}
        return write_step_folder(folder, "step_1", writers, {"step": 1})
    return write_file(folder / "a.safetensors", ours)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("layout", ["glm", "chatglm", "ours", "ours split", "step"])
def test_every_layout_gives_the_weights_by_our_names(tmp_path, layout, concat, dtype):
    config = tiny_config(qkv_concat=concat, mlp_concat=concat)
    arrays = glm_arrays(CONFIG, dtype)
    weights = mapped_weights(write_source(tmp_path, layout, arrays, config), config)
    assert same_bytes(joined(weights), our_arrays(arrays, concat=concat))


@pytest.mark.parametrize("layout", ["glm", "chatglm", "ours", "ours split", "step"])
def test_the_network_is_filled_with_the_same_values(tmp_path, layout, pynative):
    mindspore = pytest.importorskip("mindspore")
    source = write_source(tmp_path, layout, glm_arrays(CONFIG))
    found = joined(mapped_weights(source, CONFIG))
    parameters = {
        name: mindspore.Parameter(mindspore.Tensor(np.zeros(a.shape, np.float32)), name=name)
        for name, a in found.items()
    }
    load_pretrained(parameters, CONFIG, source)
    assert same_bytes({n: p.asnumpy() for n, p in parameters.items()}, found)


def test_query_key_and_value_of_a_hugging_face_file_stay_apart_in_their_order(tmp_path):
    arrays = glm_arrays(CONFIG)
    parts = mapped_weights(write_source(tmp_path, "glm", arrays), CONFIG)[QKV]
    assert [p.name for p in parts] == [f"model.layers.1.self_attn.{x}_proj.weight" for x in "qkv"]
    assert [p.shape for p in parts] == [(16, 16), (8, 16), (8, 16)]


def test_a_fused_tensor_gives_split_parameters_as_rows_of_one_memory(tmp_path):
    split = tiny_config(qkv_concat=False)
    weights = mapped_weights(write_source(tmp_path, "ours", glm_arrays(CONFIG)), split)
    layer = "transformer.encoder.layers.0.self_attention."
    q, k, v = (weights[f"{layer}w{x}.weight"][0] for x in "qkv")
    assert (k.address - q.address, v.address - k.address) == (16 * 16 * 4, 8 * 16 * 4)
    assert np.shares_memory(q.array.base, v.array.base)


def test_a_tied_head_is_the_embedding_itself(tmp_path):
    arrays = glm_arrays(CONFIG)
    del arrays["lm_head.weight"]
    source = write_hf_directory(tmp_path / "hf", CONFIG, arrays)
    content = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**content, "tie_word_embeddings": True}))
    weights = mapped_weights(source, CONFIG)
    head = weights["transformer.output_layer.weight"][0]
    assert head.address == weights["transformer.embedding.embedding_weight"][0].address


def test_a_ckpt_and_a_type_that_needs_a_cast_are_left_to_the_ordinary_load(tmp_path):
    arrays = our_arrays(glm_arrays(CONFIG))
    ckpt = write_ckpt(tmp_path / "a.ckpt", [array_to_write(n, a) for n, a in arrays.items()])
    assert mapped_weights(ckpt, CONFIG) is None
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    assert mapped_weights(write_file(tmp_path / "a.safetensors", wide), CONFIG) is None


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "config"])
def test_faults_are_told_in_the_loaders_words(tmp_path, change):
    arrays, config = glm_arrays(CONFIG), CONFIG
    name = "model.layers.1.mlp.down_proj.weight"
    if change == "missing":
        del arrays[name]
    elif change == "unexpected":
        arrays["model.layers.1.mlp.extra.weight"] = np.ones((2, 2), np.float32)
    elif change == "shape":
        arrays[name] = arrays[name].T.copy()
    else:
        config = tiny_config(rope_ratio=7)
    source = write_hf_directory(tmp_path / "hf", CONFIG, arrays)
    with pytest.raises(CheckpointError) as ordinary:
        load_pretrained({}, config, source)
    with pytest.raises(CheckpointError) as mapped:
        mapped_weights(source, config)
    assert str(mapped.value) == str(ordinary.value)
    assert str(source) in str(mapped.value)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_unless_told_not_to_look(tmp_path, dtype, value):
    arrays = glm_arrays(CONFIG, dtype)
    arrays["model.layers.0.mlp.down_proj.weight"][3, 5] = value
    source = write_hf_directory(tmp_path / "hf", CONFIG, arrays, shards=2)
    with pytest.raises(CheckpointError, match=r"model-.*down_proj\.weight: holds NaN or Inf"):
        mapped_weights(source, CONFIG)
    assert mapped_weights(source, CONFIG, verify=False) is not None


def test_a_changed_file_of_a_step_is_refused(tmp_path):
    step = write_source(tmp_path, "step", glm_arrays(CONFIG))
    path = step / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="sha256 mismatch"):
        mapped_weights(step, CONFIG)
