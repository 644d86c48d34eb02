from __future__ import annotations

import logging

import pytest

import mindformers.logger as logger_module
from mindformers.errors import CheckpointError, ConfigError
from mindformers.models.glm2.hf_config import (
    check_against_config,
    config_from_hf,
    config_to_hf,
    model_name,
    network_config,
)
from tests.support.config_files import REPOSITORY
from tests.support.glm_files import tiny_config

CHAT = {  # config.json of THUDM/glm-4-9b-chat, the keys that say something
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"},
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "attn_implementation": "sdpa",
    "bias_dropout_fusion": True,
    "ffn_hidden_size": 13696,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1.5625e-07,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_layers": 40,
    "rope_ratio": 500,
    "original_rope": True,
    "padded_vocab_size": 151552,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 131072,
    "use_cache": True,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "eos_token_id": [151329, 151336, 151338],
    "pad_token_id": 151329,
}
CHAT_HF = {  # the same model as the Hugging Face library has it, old keys
    "model_type": "glm",
    "attention_bias": True,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1.5625e-07,
    "rope_theta": 5000000.0,
    "torch_dtype": "bfloat16",
    "vocab_size": 151552,
    "eos_token_id": [151329, 151336, 151338],
    "pad_token_id": 151329,
}


MILLION = {  # what glm-4-9b-chat-1m has otherwise, and the same in the Hugging Face library's keys
    "chatglm": {"multi_query_group_num": 4, "rope_ratio": 10000, "seq_length": 1048576},
    "glm": {
        "num_key_value_heads": 4,
        "rope_theta": 100000000.0,
        "max_position_embeddings": 1048576,
    },
}
GLM_0414 = {  # config.json of zai-org/GLM-4-9B-0414
    "architectures": ["Glm4ForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": [151329, 151336, 151338],
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 13696,
    "max_position_embeddings": 32768,
    "model_type": "glm4",
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "pad_token_id": 151329,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 151552,
}
GLM_32B = {  # what GLM-4-32B-0414 and GLM-Z1-32B-0414 have otherwise
    "attention_bias": False,
    "hidden_size": 6144,
    "intermediate_size": 23040,
    "num_attention_heads": 48,
    "num_hidden_layers": 61,
}


def test_both_layouts_of_the_chat_model_mean_the_same():
    config = config_from_hf(CHAT)
    assert config == config_from_hf(CHAT_HF)
    assert (config.num_layers, config.rope_ratio, config.seq_length) == (40, 500, 131072)
    assert config.eos_token_id == [151329, 151336, 151338]
    assert config.param_init_type == "bfloat16"


def test_both_layouts_of_the_1m_model_mean_the_same():
    config = config_from_hf({**CHAT, **MILLION["chatglm"]})
    assert config == config_from_hf({**CHAT_HF, **MILLION["glm"]})
    assert (config.n_kv_heads, config.rope_ratio, config.seq_length) == (4, 10000, 1048576)
    assert config.rope_base == 1e8
    assert model_name(config) == "glm-4-9b-chat-1m"
    assert config_to_hf(config)["rope_theta"] == 1e8


@pytest.mark.parametrize(
    ("changes", "name"), [({}, "GLM-4-9B-0414"), (GLM_32B, "GLM-4-32B-0414")], ids=["9b", "32b"]
)
def test_the_0414_models_are_read(changes, name, caplog):
    logger_module._seen_once.clear()
    content = {**GLM_0414, **changes}
    with caplog.at_level(logging.WARNING, "mindformers"):
        config = config_from_hf(content)
    assert caplog.text == ""  # their rope_theta is 10000
    assert config.post_self_attn_layernorm
    assert config.post_mlp_layernorm
    assert (config.add_qkv_bias, config.rope_ratio) == (content["attention_bias"], 1)
    assert (config.seq_length, config.layernorm_epsilon) == (32768, 1e-05)
    assert (config.num_heads * config.kv_channels, config.n_kv_heads) == (config.hidden_size, 2)
    assert config.num_used_tokens == 151343
    assert name in model_name(config)
    written = config_to_hf(config)
    assert {key: written[key] for key in content if key != "initializer_range"} == {
        key: value for key, value in content.items() if key != "initializer_range"
    }


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def test_yarn_is_read_from_either_key_and_reaches_further():
    config = config_from_hf({**GLM_0414, "rope_scaling": YARN})
    rope = {**YARN, "rope_type": "yarn", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    assert config == config_from_hf({**GLM_0414, "rope_parameters": rope})
    assert config.seq_length == 131072
    assert config.rope_scaling["factor"] == 4.0
    content = config_to_hf(config)
    assert content["rope_scaling"]["original_max_position_embeddings"] == 32768
    assert content["rope_parameters"]["rope_type"] == "yarn"
    for layout in ("glm", "chatglm"):
        assert config_from_hf(config_to_hf(config, layout)) == config


def test_a_run_may_add_yarn_to_weights_but_not_drop_it():
    plain, scaled = GLM_0414, {**GLM_0414, "rope_scaling": YARN}
    check_against_config(config_from_hf(scaled), plain, "config.json")
    with pytest.raises(CheckpointError, match=r"rope_scaling: None in the run, \{'rope_type'"):
        check_against_config(config_from_hf(plain), scaled, "config.json")


@pytest.mark.parametrize(
    ("yaml", "content"),
    [
        ("predict_glm4_9b_chat", CHAT),
        ("predict_glm4_9b_chat_1m", {**CHAT, **MILLION["chatglm"]}),
        ("predict_glm4_9b_0414", GLM_0414),
        ("predict_glm_z1_9b", GLM_0414),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_yaml_of_a_published_model_is_its_config_json(yaml, content):
    run = network_config(None, "", f"{REPOSITORY}/configs/glm4/{yaml}.yaml")
    check_against_config(run, content, "config.json")
    assert run.seq_length <= config_from_hf(content).seq_length
    assert run.eos_token_ids == content["eos_token_id"]


def test_the_new_rope_key_is_read():
    content = {k: v for k, v in CHAT_HF.items() if k not in ("rope_theta", "partial_rotary_factor")}
    rope = {"rope_type": "default", "rope_theta": 1e8, "partial_rotary_factor": 0.5}
    assert config_from_hf({**content, "rope_parameters": rope}).rope_ratio == 10000


def test_absent_keys_mean_what_the_library_takes_for_them():
    config = config_from_hf({"model_type": "glm", "rope_theta": 5e6})
    assert (config.num_layers, config.n_kv_heads, config.kv_channels) == (40, 2, 128)
    assert config.eos_token_ids == [151329, 151336, 151338]


def test_glm4_has_the_two_extra_norms():
    config = config_from_hf({**CHAT_HF, "model_type": "glm4"})
    assert config.post_self_attn_layernorm
    assert config.post_mlp_layernorm


@pytest.mark.parametrize("layout", ["glm", "chatglm"])
@pytest.mark.parametrize("sandwich", [False, True])
def test_a_configuration_survives_each_layout(layout, sandwich):
    config = tiny_config(
        rope_ratio=500, post_self_attn_layernorm=sandwich, post_mlp_layernorm=sandwich
    )
    assert config_from_hf(config_to_hf(config, layout)) == config


def test_our_own_config_json_is_read(tmp_path):
    import json

    config = tiny_config(qkv_concat=False)
    content = json.loads(config.save_pretrained(tmp_path).read_text())
    assert config_from_hf(content) == config


def test_the_glm_layout_has_the_library_s_keys():
    content = config_to_hf(tiny_config(rope_ratio=500), dtype="bfloat16")
    assert content["architectures"] == ["GlmForCausalLM"]
    assert content["rope_parameters"] == {
        "rope_type": "default",
        "partial_rotary_factor": 0.5,
        "rope_theta": 5000000.0,
    }
    assert content["rope_theta"] == 5000000.0
    assert content["num_key_value_heads"] == 2
    assert content["eos_token_id"] == [44, 45, 46]
    assert content["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "llama"},
            "c.json: model_type 'llama' is no GLM-4 text model; allowed: chatglm",
        ),
        ({"model_type": "glm4_moe"}, "did you mean"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'; allowed: 'silu'"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary_factor 0.25; allowed: 0.5"),
        (
            {"rope_scaling": {"type": "linear", "factor": 4}},
            "'linear'; allowed: 'default' or 'yarn'",
        ),
        ({"rope_scaling": {"type": "yarn", "factor": 4, "mscale": 1}}, "rope_scaling has mscale 1"),
        ({"rope_scaling": {"type": "yarn"}}, "c.json: rope_scaling.factor: .*"),
        ({"rope_scaling": {"type": "yarn", "factor": 0.5}}, "c.json: rope_scaling.factor: .*0.5"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"vision_config": {}}, "vision_config"),
        ({"rope_theta": "x"}, "rope_theta 'x'; allowed: a number"),
        ({"num_hidden_layers": "40"}, "c.json: num_layers: .*a whole number"),
    ],
)
def test_what_the_network_does_not_do_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        config_from_hf({**CHAT_HF, **changes}, "c.json")


def test_a_lost_rope_ratio_is_warned_about(caplog):
    logger_module._seen_once.clear()
    with caplog.at_level(logging.WARNING, "mindformers"):
        config_from_hf({**CHAT_HF, "rope_theta": 10000.0}, "c.json")
    assert "glm-4-9b-chat needs rope_theta 5000000" in caplog.text
    caplog.clear()
    config_from_hf(CHAT_HF, "c.json")
    config_from_hf({**CHAT_HF, "rope_theta": 10000.0, "max_position_embeddings": 8192}, "c.json")
    assert caplog.text == ""


def test_one_extra_norm_alone_cannot_be_said_in_the_glm_layout():
    with pytest.raises(ConfigError, match="both or neither in the glm layout"):
        config_to_hf(tiny_config(post_mlp_layernorm=True))


def test_a_conflict_shows_both_values_and_names_the_model():
    run = config_from_hf(CHAT)
    run.update(rope_ratio=1, seq_length=8192)
    with pytest.raises(CheckpointError) as caught:
        check_against_config(run, CHAT, "hf/config.json")
    text = str(caught.value)
    assert text.startswith(
        "hf/config.json: disagrees with the run's model_config (this is glm-4-9b-chat)"
    )
    assert "rope_ratio: 1.0 in the run, 500.0 with the weights" in text
    assert "seq_length" not in text  # a shorter run of the same weights is fine


def test_without_yaml_and_config_json_there_is_nothing_to_go_by():
    with pytest.raises(ConfigError, match="x/config.json: not found; give the run's YAML"):
        network_config(None, "x/config.json", None)


def test_a_yaml_of_another_model_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model:\n  model_config:\n    type: LlamaConfig\n")
    with pytest.raises(ConfigError, match="model_config is no ChatGLM2Config"):
        network_config(CHAT, "x", path)


def test_a_directorys_model_has_a_cache_for_its_whole_length():
    assert config_from_hf(CHAT).num_blocks == 131072 // 16
    assert config_from_hf({**CHAT_HF, **MILLION["glm"]}).num_blocks == 65536
    assert config_from_hf({**GLM_0414, "rope_scaling": YARN}).num_blocks == 8192
    assert config_from_hf({**CHAT, "seq_length": 64}).num_blocks == 128


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"seq_length": 32768}, ""),
        ({"seq_length": 32769}, "seq_length 32769, but these weights reach 32768 positions, more with rope_scaling"),
        ({"seq_length": 131072, "rope_scaling": YARN}, ""),
        ({"seq_length": 131073, "rope_scaling": YARN}, "reach 131072 positions with rope_scaling: beyond them"),
    ],
)  # fmt: skip
def test_positions_beyond_the_trained_ones_are_warned_about(asked, said, caplog):
    logger_module._seen_once.clear()
    config = config_from_hf(GLM_0414)
    scaling = {k: v for k, v in asked.get("rope_scaling", {}).items() if k != "type"}
    config.update(**{**asked, **({"rope_scaling": scaling} if scaling else {})})
    with caplog.at_level(logging.WARNING, "mindformers"):
        check_against_config(config, GLM_0414, "config.json")
    assert bool(caplog.text) == bool(said)
    assert said in caplog.text
