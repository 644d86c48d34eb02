"""From a path to the right class: our directories, Hugging Face's, YAML files, hub ids."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from mindformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    MindFormerConfig,
)
from mindformers.errors import CheckpointError, ConfigError, MissingExtraError
from mindformers.models.auto import resolve_source
from mindformers.models.glm2 import glm2_weights
from mindformers.models.glm2.hf_config import config_to_hf
from tests.support.model_dir import write_model_dir

PROMPT = [[5, 6, 7, 8], [9, 10]]
TEMPLATE = "[gMASK]<sop>{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mindformers.parallel.runtime import start_runtime

    start_runtime(device_target="CPU", mode=1)
    return write_model_dir(tmp_path_factory.mktemp("saved"), chat_template=TEMPLATE)


def logits(network) -> np.ndarray:
    from tests.support.networks import ints

    return network(ints([[5, 6, 7, 8]]))[0].asnumpy()


def test_a_saved_directory_keeps_everything(saved: Path, tmp_path: Path, pynative: None) -> None:
    first = AutoModel.from_pretrained(saved)
    again = AutoModelForCausalLM.from_pretrained(first.save_pretrained(tmp_path / "copy"))
    assert again.config == first.config
    assert again.config.eos_token_id == first.config.eos_token_id
    assert isinstance(again.config.eos_token_id, list)
    assert again.config.param_init_type == "float32"
    assert np.array_equal(logits(first), logits(again))
    assert AutoTokenizer.from_pretrained(tmp_path / "copy").chat_template == TEMPLATE
    assert again.generation_defaults().eos_token_id == first.config.eos_token_id


def test_dtypes_survive_saving(tmp_path: Path, pynative: None) -> None:
    network = AutoModel.from_pretrained(
        write_model_dir(tmp_path / "low", param_init_type="bfloat16")
    )
    again = AutoModel.from_pretrained(network.save_pretrained(tmp_path / "again"))
    for name, parameter in network.weight_parameters().items():
        other = again.weight_parameters()[name]
        assert other.dtype == parameter.dtype
        assert np.array_equal(
            other.astype("float32").asnumpy(), parameter.astype("float32").asnumpy()
        )


@pytest.mark.parametrize("layout", ["glm", "chatglm"])
def test_both_hugging_face_layouts_load_and_answer_alike(
    layout: str, saved: Path, tmp_path: Path, pynative: None
) -> None:
    network = AutoModel.from_pretrained(saved)
    glm2_weights.save_weights(network.weight_parameters(), network.config, tmp_path, layout)
    (tmp_path / "config.json").write_text(
        json.dumps(config_to_hf(network.config, layout)), encoding="utf-8"
    )
    other = AutoModel.from_pretrained(tmp_path)
    assert np.array_equal(logits(other), logits(network))
    theirs = other.generate(PROMPT, max_new_tokens=8)
    for mine, found in zip(network.generate(PROMPT, max_new_tokens=8), theirs, strict=True):
        assert mine.tolist() == found.tolist()


def test_a_yaml_file_gives_config_network_tokenizer_and_processor(
    saved: Path, tmp_path: Path, pynative: None
) -> None:
    fields = {
        k: v
        for k, v in json.loads((saved / "config.json").read_text()).items()
        if k not in ("mindformers_config", "model_type", "architectures")
    }
    content = {
        "load_checkpoint": str(saved),
        "model": {
            "model_config": {"type": "ChatGLM2Config", **fields},
            "arch": {"type": "ChatGLM2ForConditionalGeneration"},
        },
        "processor": {
            "type": "GLMProcessor",
            "tokenizer": {
                "type": "ChatGLM4Tokenizer",
                "vocab_file": str(saved / "tokenizer.model"),
            },
        },
    }
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    network = AutoModel.from_pretrained(path)
    assert AutoConfig.from_pretrained(path) == network.config
    assert np.array_equal(logits(network), logits(AutoModel.from_pretrained(saved)))
    assert np.array_equal(
        logits(AutoModel.from_config(MindFormerConfig(str(path)))), logits(network)
    )
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(saved))
    processor = AutoProcessor.from_pretrained(path, max_length=16, return_tensors="np")
    assert processor("hello")["text"].shape == (1, 16)


def test_overrides_change_a_field(saved: Path) -> None:
    config = AutoConfig.from_pretrained(saved, seq_length=48)
    assert config.seq_length == 48
    with pytest.raises(ConfigError, match="did you mean 'seq_length'"):
        AutoConfig.from_pretrained(saved, seq_lenght=48)


def test_a_path_that_is_not_there_is_named_with_its_neighbour(saved: Path) -> None:
    with pytest.raises(
        ConfigError, match=f"did you mean {saved.name}".replace(saved.name, ".*" + saved.name)
    ):
        resolve_source(saved.parent / (saved.name + "x"))


def test_a_directory_without_weights_or_tokenizer_is_refused_clearly(
    saved: Path, tmp_path: Path, pynative: None
) -> None:
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="safetensors"):
        AutoModel.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"no tokenizer\.model, no tokenizer\.json and no YAML"):
        AutoTokenizer.from_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path, load_weights=False).config.num_layers == 2


def test_a_broken_config_json_is_refused_clearly(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json:1: is not JSON"):
        AutoConfig.from_pretrained(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json and no YAML file; give the directory"):
        AutoConfig.from_pretrained(tmp_path)


def test_a_hub_id_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mindformers\[hub\]'"):
        resolve_source("zai-org/glm-4-9b-chat-hf")


def test_a_hub_id_is_looked_up_in_the_local_cache_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def snapshot_download(
        name: str, *, allow_patterns: list[str], local_files_only: bool = False
    ) -> str:
        calls.append(local_files_only)
        if name == "org/gone" or (name == "org/online" and local_files_only):
            raise FileNotFoundError(name)
        assert not any(pattern.endswith((".py", ".bin")) for pattern in allow_patterns)
        return str(tmp_path)

    fake = types.ModuleType("huggingface_hub")
    fake.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    assert resolve_source("org/cached") == tmp_path
    assert calls == [True]
    assert resolve_source("org/online") == tmp_path
    assert calls == [True, True, False]
    with pytest.raises(ConfigError, match="neither in the local cache nor to be had from the hub"):
        resolve_source("org/gone")
