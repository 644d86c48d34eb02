"""Every YAML file of configs/ binds as published, and a typo anywhere in it is found."""

import copy

import pytest

from mindformers.config.loader import Document, load_yaml
from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.config.run_config import bind_run_config, load_run_config
from mindformers.errors import ConfigError
from tests.support.config_files import CONFIGS, REPOSITORY

FREE = {("model", "model_config", "auto_map")}  # whatever stands in it is not read


def test_the_published_files_are_there():
    assert {path.relative_to(REPOSITORY / "configs").as_posix() for path in CONFIGS} >= {
        "glm4/finetune_glm4_9b.yaml", "glm4/predict_glm4_9b_chat.yaml",
        "glm4/predict_glm4_9b_chat_800I_A2.yaml", "glm4/finetune_glm4_tiny_cpu.yaml",
        "glm4/predict_glm4_tiny_cpu.yaml", "glm4/lora_glm4_9b.yaml", "glm4/lora_glm4_tiny_cpu.yaml",
        "glm4/predict_glm4_9b_0414.yaml", "glm4/predict_glm_z1_9b.yaml",
        "glm2/predict_glm2_6b.yaml", "glm2/finetune_glm2_6b_fp16.yaml", "glm2/lora_glm2_6b_fp16.yaml",
        "glm2/run_glm2_6b_ptuning2.yaml",
        "glm3/predict_glm3_6b.yaml", "glm3/finetune_glm3_6b_bf16.yaml",
        "glm4/predict_glm4_9b_chat_1m.yaml",
    }  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_file_binds_and_every_value_arrives(path):
    document = load_yaml(path)
    settings = load_run_config(path).to_dict()
    for where in key_paths(document.data):
        found, expected = value_at(settings, where), value_at(document.data, where)
        if not isinstance(expected, (dict, list)) and expected not in (None, ""):
            assert found == expected, where
    assert MindFormerConfig(str(path)).bind() == load_run_config(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_typo_in_any_key_is_found_with_its_line_and_the_right_name(path):
    document = load_yaml(path)
    for where in key_paths(document.data):
        key = where[-1]
        if not isinstance(key, str) or key == "type" or (where[:3] in FREE and len(where) > 3):
            continue
        typo = f"{key[:-1]}{key[-1] * 2}"
        data = copy.deepcopy(document.data)
        holder = value_at(data, where[:-1])
        holder[typo] = holder.pop(key)
        positions = {**document.positions, (*where[:-1], typo): document.positions[where]}
        with pytest.raises(ConfigError) as caught:
            bind_run_config(Document(data, positions, str(path)))
        lines = str(caught.value).splitlines()
        line = document.positions[where][1]
        assert any(
            f"{path}:{line}: " in text and f"unknown key {typo!r}; did you mean {key!r}" in text
            for text in lines
        ), caught.value


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_misspelled_type_is_found_with_the_right_name(path):
    document = load_yaml(path)
    for where in key_paths(document.data):
        if where[-1] != "type":
            continue
        data = copy.deepcopy(document.data)
        holder = value_at(data, where[:-1])
        right = holder["type"]
        holder["type"] = f"{right}s"
        with pytest.raises(ConfigError) as caught:
            bind_run_config(Document(data, document.positions, str(path)))
        assert f"found '{right}s' (text); allowed: " in str(caught.value)
        assert right in str(caught.value).split("allowed: ", 1)[1]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_value_of_another_kind_is_found_at_any_key(path):
    document = load_yaml(path)
    for where in key_paths(document.data):
        if where[:3] in FREE:
            continue
        data = copy.deepcopy(document.data)
        value_at(data, where[:-1])[where[-1]] = 1 + 2j
        with pytest.raises(ConfigError) as caught:
            bind_run_config(Document(data, document.positions, str(path)))
        assert f":{document.positions[where][1]}: " in str(caught.value), where


def key_paths(data, path=()):
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from key_paths(value, (*path, key))


def value_at(data, path):
    for key in path:
        if isinstance(data, list) and isinstance(key, str):
            (data,) = data  # a section alone stands for a list of one
        data = data[key]
    return data
