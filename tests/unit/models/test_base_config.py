"""Configuration objects as dicts, JSON and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindformers import AutoConfig, AutoModel, ChatGLM2Config, MindFormerRegister
from mindformers.errors import ConfigError
from mindformers.models.base_config import PretrainedConfig


def test_json_holds_what_differs_or_everything(tmp_path: Path) -> None:
    config = ChatGLM2Config(num_layers=3, eos_token_id=[7, 8], compute_dtype="float32")
    short = json.loads(config.to_json_string())
    assert short == {
        "mindformers_config": "ChatGLM2Config",
        "model_type": "glm2",
        "num_layers": 3,
        "eos_token_id": [7, 8],
        "compute_dtype": "float32",
    }
    assert json.loads(config.to_json_string(use_diff=False))["hidden_size"] == 4096
    path = config.to_json_file(tmp_path / "config.json")
    assert ChatGLM2Config.from_json_file(path) == config
    assert ChatGLM2Config.from_pretrained(tmp_path, seq_length=16).seq_length == 16


def test_a_dict_is_read_with_changes() -> None:
    config = ChatGLM2Config.from_dict({"num_layers": 3, "model_type": "glm2"}, seq_length=9)
    assert (config.num_layers, config.seq_length) == (3, 9)
    with pytest.raises(ConfigError, match="num_layrs"):
        ChatGLM2Config.from_dict({"num_layrs": 3})


def test_a_family_is_found_by_its_model_type() -> None:
    assert AutoConfig.for_model("glm2", num_layers=5).num_layers == 5
    with pytest.raises(ConfigError, match=r"model_type 'glm3'; allowed: .*glm2"):
        AutoConfig.for_model("glm3")


def test_a_class_of_ones_own_is_registered(
    tmp_path: Path, pynative: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mindformers import ChatGLM2ForConditionalGeneration

    known = {kind: dict(classes) for kind, classes in MindFormerRegister.registry.items()}
    monkeypatch.setattr(MindFormerRegister, "registry", known)

    class OwnConfig(ChatGLM2Config):
        model_type = "own"

    class OwnNetwork(ChatGLM2ForConditionalGeneration):
        config_class = OwnConfig

    AutoConfig.register("own", OwnConfig)
    AutoConfig.register("own", OwnConfig, exist_ok=True)
    AutoModel.register(OwnConfig, OwnNetwork, exist_ok=True)
    sizes = {"num_layers": 1, "hidden_size": 8, "ffn_hidden_size": 8, "padded_vocab_size": 64}
    heads = {"kv_channels": 4, "num_attention_heads": 2, "multi_query_group_num": 1}
    config = AutoConfig.for_model("own", **sizes, **heads)
    assert type(AutoModel.from_config(config)) is OwnNetwork
    config.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is OwnConfig
    with pytest.raises(ConfigError, match="OwnConfig.model_type is 'own', not 'other'"):
        AutoConfig.register("other", OwnConfig)
    with pytest.raises(ConfigError, match="OwnNetwork.config_class is OwnConfig"):
        AutoModel.register(ChatGLM2Config, OwnNetwork)


def test_another_family_in_the_file_is_refused(tmp_path: Path) -> None:
    class Foreign(PretrainedConfig):
        model_type = "foreign"

    ChatGLM2Config(num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="describes a ChatGLM2Config; allowed: Foreign"):
        Foreign.from_pretrained(tmp_path)


def test_loader_options_are_neutral_or_refused(tmp_path: Path) -> None:
    ChatGLM2Config(num_layers=1).save_pretrained(tmp_path)
    AutoConfig.from_pretrained(tmp_path, trust_remote_code=True, revision="main")
    with pytest.raises(ConfigError, match=r"AutoConfig\.revision: 'v2' is not implemented"):
        AutoConfig.from_pretrained(tmp_path, revision="v2")


def test_from_config_leaves_the_callers_configuration_alone(pynative: None) -> None:
    sizes = {"num_layers": 1, "hidden_size": 8, "ffn_hidden_size": 8, "padded_vocab_size": 64}
    heads = {"kv_channels": 4, "num_attention_heads": 2, "multi_query_group_num": 1}
    config = ChatGLM2Config(**sizes, **heads, seq_length=16)
    assert AutoModel.from_config(config, seq_length=8).config.seq_length == 8
    assert config.seq_length == 16
