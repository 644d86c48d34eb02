from __future__ import annotations

import logging

import ml_dtypes
import numpy as np
import pytest

from mindformers.checkpoint.ckpt_io import write_ckpt
from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.manifest import write_step_folder
from mindformers.checkpoint.tensor_io import SafeFile, array_to_write
from mindformers.errors import CheckpointError, ConfigError
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_weights import (
    NAMES,
    count_parameters,
    layout_named,
    load_pretrained,
    map_source,
    save_weights,
    stored_tensors,
)
from mindformers.models.glm2.hf_config import config_from_hf
from tests.support.glm_files import (
    chatglm_arrays,
    glm_arrays,
    our_arrays,
    same_bytes,
    tiny_config,
    write_file,
    write_hf_directory,
)

pytestmark = pytest.mark.usefixtures("pynative")
CONFIG = tiny_config()
ARRAYS = glm_arrays(CONFIG)


def published(**changes) -> ChatGLM2Config:
    return config_from_hf({"model_type": "glm", "rope_theta": 5e6, **changes})


def make_parameters(config, dtype="float32", concat=True):
    """Zeros under our names; a stand-in for the network that takes no time to build."""
    mindspore = pytest.importorskip("mindspore")
    ms_type = getattr(mindspore, dtype)
    return {
        stored.name: mindspore.Parameter(
            mindspore.Tensor(np.zeros(stored.shape, np.float32)).astype(ms_type), name=stored.name
        )
        for stored in stored_tensors(
            ChatGLM2Config(**{**config.to_dict(), "qkv_concat": concat, "mlp_concat": concat}),
            layout_named("mindformers", tiny_config(qkv_concat=concat, mlp_concat=concat)),
        )
    }


def values(parameters):
    return {
        name: p.asnumpy() if p.asnumpy().dtype.name != "bfloat16"
        else p.asnumpy().view(np.uint16).view(ml_dtypes.bfloat16)
        for name, p in parameters.items()
    }  # fmt: skip


def test_the_parameter_count_is_that_of_the_published_models():
    assert count_parameters(published()) == 9_399_951_360
    assert count_parameters(published(num_key_value_heads=4)) == 9_483_857_920


def test_our_names_and_shapes_of_glm4_9b_are_upstreams():
    layer = "transformer.encoder.layers.39."
    fused = {
        s.name: s.shape
        for s in stored_tensors(published(), layout_named("mindformers", published()))
    }
    assert len(fused) == 40 * 7 + 3
    assert fused["transformer.embedding.embedding_weight"] == (151552, 4096)
    assert fused[layer + "self_attention.query_key_value.weight"] == (4608, 4096)
    assert fused[layer + "self_attention.query_key_value.bias"] == (4608,)
    assert fused[layer + "mlp.dense_h_to_4h.weight"] == (27392, 4096)
    config = published()
    config.update(qkv_concat=False, mlp_concat=False)
    split = {s.name: s.shape for s in stored_tensors(config, layout_named("mindformers", config))}
    assert split[layer + "self_attention.wk.weight"] == (256, 4096)
    assert split[layer + "mlp.dense_left.weight"] == (13696, 4096)
    assert layer + "self_attention.query_key_value.weight" not in split


@pytest.mark.parametrize(
    ("arrays", "style", "forms"),
    [
        (ARRAYS, "glm", ("q,k,v", "gate_up")),
        (chatglm_arrays(ARRAYS), "chatglm", ("qkv", "gate_up")),
        (our_arrays(ARRAYS), "mindformers", ("qkv", "gate_up")),
        (our_arrays(ARRAYS, concat=False), "mindformers", ("q,k,v", "gate,up")),
    ],
)
def test_the_layout_is_seen_from_the_names(arrays, style, forms):
    layout = NAMES.detect(arrays)
    assert (layout.style, layout.forms) == (style, forms)


def test_names_of_another_family_are_refused():
    with pytest.raises(CheckpointError, match=r"none of its 1 kinds of tensors.*found: h\.0\.attn"):
        NAMES.detect(["h.0.attn"], "x")


@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize(
    "layout", ["glm", "chatglm", "fused glm", "ours", "ours split", "ckpt", "step"]
)
def test_every_layout_fills_the_same_parameters(tmp_path, layout, concat):
    config = tiny_config(qkv_concat=concat, mlp_concat=concat)
    parameters = make_parameters(config, concat=concat)
    if layout in ("glm", "chatglm"):
        arrays = ARRAYS if layout == "glm" else chatglm_arrays(ARRAYS)
        source = write_hf_directory(tmp_path / "hf", config, arrays, layout, shards=2)
    elif layout == "fused glm":  # an early Hugging Face converter kept qkv in one tensor
        arrays = dict(ARRAYS)
        for i in range(2):
            for part in ("weight", "bias"):
                fused = [arrays.pop(f"model.layers.{i}.self_attn.{x}_proj.{part}") for x in "qkv"]
                arrays[f"model.layers.{i}.self_attn.qkv_proj.{part}"] = np.concatenate(fused)
        source = write_hf_directory(tmp_path / "hf", config, arrays)
    else:
        arrays = our_arrays(ARRAYS, concat=layout != "ours split")
        source = tmp_path / ("a.ckpt" if layout == "ckpt" else "a.safetensors")
        if layout == "ckpt":
            write_ckpt(source, [array_to_write(n, a) for n, a in arrays.items()])
        elif layout == "step":
            writers = {"model.safetensors": lambda p: write_file(p, arrays)}
            source = write_step_folder(tmp_path, "step_1", writers, {"step": 1})
        else:
            write_file(source, arrays)
    report = load_pretrained(parameters, config, source)
    assert same_bytes(values(parameters), our_arrays(ARRAYS, concat=concat))
    assert report.parameters == count_parameters(config)
    assert not report.casts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_loading_is_exact_in_every_type(tmp_path, dtype):
    short = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[dtype]
    arrays = glm_arrays(CONFIG, short)
    parameters = make_parameters(CONFIG, dtype)
    source = write_file(tmp_path / "a.safetensors", arrays)
    load_pretrained(parameters, CONFIG, source)
    assert same_bytes(values(parameters), our_arrays(arrays))


def test_a_cast_is_exact_and_stated_once(tmp_path, caplog):
    arrays = glm_arrays(CONFIG, "fp16")
    parameters = make_parameters(CONFIG, "bfloat16")
    with caplog.at_level(logging.INFO, "mindformers"):
        report = load_pretrained(parameters, CONFIG, write_file(tmp_path / "a.safetensors", arrays))
    expected = {n: a.astype(ml_dtypes.bfloat16) for n, a in our_arrays(arrays).items()}
    assert same_bytes(values(parameters), expected)
    # 25 stored tensors; the parameters' names differ, not their number of sources
    assert report.casts == {("float16", "bfloat16"): 25}
    assert caplog.text.count("cast: 25 float16 -> bfloat16") == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_nan_and_inf_are_refused_naming_the_tensor(tmp_path, bad, dtype):
    arrays = glm_arrays(CONFIG, dtype)
    arrays["model.layers.1.mlp.down_proj.weight"][3, 5] = bad
    source = write_file(tmp_path / "a.safetensors", arrays)
    with pytest.raises(
        CheckpointError, match=r"layers\.1\.mlp\.down_proj\.weight: holds NaN or Inf"
    ):
        load_pretrained(make_parameters(CONFIG), CONFIG, source)
    load_pretrained(make_parameters(CONFIG), CONFIG, source, verify=False)


def test_training_state_beside_the_weights_is_left_out(tmp_path):
    arrays = our_arrays(ARRAYS)
    for name in list(arrays):
        arrays[f"adam_m.{name}"] = np.ones_like(arrays[name])
    arrays["transformer.encoder.layers.0.self_attention.key_cache"] = np.zeros((2, 2), np.float32)
    arrays["global_step"] = np.array(5)
    arrays["loss_scale"] = np.ones(1, np.float32)
    parameters = make_parameters(CONFIG)
    report = load_pretrained(parameters, CONFIG, write_file(tmp_path / "a.safetensors", arrays))
    assert same_bytes(values(parameters), our_arrays(ARRAYS))
    assert len(report.dropped) == len(our_arrays(ARRAYS)) + 3


def test_missing_unexpected_and_misshaped_tensors_are_one_table(tmp_path):
    arrays = dict(ARRAYS)
    arrays["model.layers.0.mlp.downproj.weight"] = arrays.pop("model.layers.0.mlp.down_proj.weight")
    arrays["model.norm.weight"] = np.zeros(5, np.float32)
    source = write_file(tmp_path / "a.safetensors", arrays)
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(make_parameters(CONFIG), CONFIG, source)
    text = str(caught.value)
    assert "1 missing, 1 unexpected, 1 of another shape" in text
    assert "did you mean 'model.layers.0.mlp.downproj.weight'?" in text
    line = next(line for line in text.splitlines() if line.startswith("  model.norm.weight"))
    assert line.split()[1:] == ["[16]", "[5]"]


def test_weights_of_the_sister_model_are_recognised():
    shapes = {
        s.name: s.shape for s in stored_tensors(published(), layout_named("glm", published()))
    }
    run = published(num_key_value_heads=4, rope_theta=1e8)
    with pytest.raises(CheckpointError) as caught:
        map_source(run, shapes)
    text = str(caught.value)
    assert "80 of another shape" not in text  # q has the same rows; k and v differ, weight and bias
    assert "160 of another shape" in text
    assert "these weights have multi_query_group_num 2: this is glm-4-9b or glm-4-9b-chat" in text
    assert "[512, 4096]" in text
    assert "[256, 4096]" in text


def test_a_config_json_that_disagrees_stops_the_load(tmp_path):
    source = write_hf_directory(tmp_path / "hf", CONFIG, ARRAYS)
    with pytest.raises(
        CheckpointError, match=r"rope_ratio: 500\.0 in the run, 1\.0 with the weights"
    ):
        load_pretrained(make_parameters(CONFIG), tiny_config(rope_ratio=500), source)


def test_a_lone_file_of_ours_knows_its_configuration(tmp_path):
    parameters = make_parameters(CONFIG)
    (path,) = save_weights(parameters, CONFIG, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors: disagrees.*\n  rope_ratio: 500"):
        load_pretrained(parameters, tiny_config(rope_ratio=500), path)


def test_tied_embeddings_fill_the_head_when_config_json_says_so(tmp_path):
    arrays = {n: a for n, a in ARRAYS.items() if n != "lm_head.weight"}
    folder = write_hf_directory(tmp_path / "hf", CONFIG, arrays)
    with pytest.raises(CheckpointError, match="set tie_word_embeddings: true in its config.json"):
        load_pretrained(make_parameters(CONFIG), CONFIG, folder)
    path = folder / "config.json"
    path.write_text(
        path.read_text().replace('"tie_word_embeddings": false', '"tie_word_embeddings": true')
    )
    parameters = make_parameters(CONFIG)
    load_pretrained(parameters, CONFIG, folder)
    head = parameters["transformer.output_layer.weight"].asnumpy()
    assert (head == ARRAYS["model.embed_tokens.weight"]).all()


def test_a_network_that_is_not_the_configurations_is_refused(tmp_path):
    source = write_file(tmp_path / "a.safetensors", ARRAYS)
    parameters = make_parameters(CONFIG)
    del parameters["transformer.output_layer.weight"]
    with pytest.raises(CheckpointError, match="the network is not the configuration's: 1 missing"):
        load_pretrained(parameters, CONFIG, source)


@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("sandwich", [True, False])
def test_saving_gives_every_layout_byte_for_byte(tmp_path, concat, sandwich):
    config = tiny_config(
        qkv_concat=concat, mlp_concat=concat, post_self_attn_layernorm=sandwich,
        post_mlp_layernorm=sandwich,
    )  # fmt: skip
    arrays = glm_arrays(config)
    parameters = make_parameters(config, concat=concat)
    load_pretrained(parameters, config, write_file(tmp_path / "a.safetensors", arrays))
    chatglm = chatglm_arrays(arrays)
    del chatglm["transformer.rotary_pos_emb.inv_freq"]
    for layout, expected in (
        ("glm", arrays),
        ("chatglm", chatglm),
        ("mindformers", our_arrays(arrays, concat=concat)),
    ):
        save_weights(parameters, config, tmp_path / layout, layout, max_shard_size=2000)
        with open_weights(tmp_path / layout) as source:
            assert same_bytes({n: source.read(n) for n in source.tensors}, expected), layout


def test_saving_leaves_out_what_is_no_weight_and_casts_on_request(tmp_path):
    mindspore = pytest.importorskip("mindspore")
    parameters = make_parameters(CONFIG)
    name = "transformer.encoder.layers.0.key_cache"
    parameters[name] = mindspore.Parameter(mindspore.Tensor(np.zeros((2, 2))), name=name)
    (path,) = save_weights(parameters, CONFIG, tmp_path / "a.safetensors", dtype="bf16")
    with SafeFile(path) as file:
        assert file.tensors.keys() == our_arrays(ARRAYS).keys()
        assert {t.dtype.name for t in file.tensors.values()} == {"bfloat16"}


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="layout 'torch'; allowed: mindformers, chatglm, glm"):
        save_weights({}, CONFIG, tmp_path, "torch")


def test_a_compiled_network_sees_the_weights_that_are_loaded_into_it(tmp_path, mode):
    mindspore = pytest.importorskip("mindspore")
    from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration

    folder = write_hf_directory(tmp_path / "hf", CONFIG, ARRAYS)
    ids = mindspore.Tensor(np.arange(6)[None], mindspore.int32)
    logits = []
    for runs_before_loading, concat in ((True, True), (False, True), (False, False)):
        config = tiny_config(qkv_concat=concat, mlp_concat=concat)
        network = ChatGLM2ForConditionalGeneration(config)
        network.set_train(False)
        if runs_before_loading:
            network(ids)
        load_pretrained({p.name: p for p in network.get_parameters()}, config, folder)
        logits.append(network(ids)[0].asnumpy())
    assert (logits[0] == logits[1]).all()
    np.testing.assert_allclose(logits[0], logits[2], rtol=1e-5, atol=1e-5)
