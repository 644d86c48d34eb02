"""A run that predicts with guessed tokens: the answers of a run without, from the file or the command line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from mindformers.cli.run import main
from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.errors import ConfigError
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.tasks.predict import predict
from tests.support.generation import fresh_warnings
from tests.support.model_dir import tiny_settings, write_model_dir

PROMPTS = ["one two one two", "三"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from mindformers.parallel.runtime import start_runtime

    start_runtime(device_target="CPU", mode=1)
    base = tmp_path_factory.mktemp("models")
    return write_model_dir(base / "large"), write_model_dir(base / "small", num_layers=1)


def settings(folder: Path, output: Path, **changes: Any) -> dict[str, Any]:
    network = tiny_settings(ChatGLM4Tokenizer(folder / "tokenizer.model"), eos_token_id=[])
    network |= {"max_new_tokens": 20, **changes.pop("network", {})}
    return {
        "run_mode": "predict",
        "output_dir": str(output),
        "save_file": str(output / "answers.txt"),
        "load_checkpoint": str(folder),
        "context": {"device_target": "CPU", "mode": 1},
        "model": {"model_config": network},
        "input_data": PROMPTS,
        **changes,
    }


def answers(folder: Path, output: Path, **changes: Any) -> Any:
    return predict(MindFormerConfig(settings(folder, output, **changes)).bind())


def test_a_run_answers_the_same_with_guesses(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    large, small = folders
    fresh_warnings(monkeypatch)
    caplog.set_level("INFO", "mindformers")
    wanted = answers(large, tmp_path)
    assert "guessed tokens" not in caplog.text
    guesses = (
        {"network": {"prompt_lookup_num_tokens": 6}},
        {"assistant_model": str(small), "network": {"num_assistant_tokens": 3}},
    )
    for changes in guesses:
        caplog.clear()
        logging.getLogger("mindformers").propagate = True
        assert answers(large, tmp_path, **changes) == wanted
        assert "guessed tokens" in caplog.text


def test_the_flags_set_the_keys(folders: tuple[Path, Path], tmp_path: Path, capfd: Any) -> None:
    large, small = folders
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings(large, tmp_path)))
    for flags in (["--prompt_lookup", "6"], ["--assistant_model", str(small)]):
        assert main(["--config", str(path), *flags]) == 0
        assert "guessed tokens: " in "".join(capfd.readouterr())


def test_an_assistant_of_another_vocabulary_or_none_is_refused(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    large, small = folders
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (other / name).write_bytes((small / name).read_bytes())
    ranks = (small / "tokenizer.model").read_text().splitlines()
    (first, low), (second, high) = (rank.split() for rank in ranks[-2:])
    ranks[-2:] = [f"{second} {low}", f"{first} {high}"]
    (other / "tokenizer.model").write_text("\n".join(ranks) + "\n")
    with pytest.raises(
        ConfigError, match="assistant_model: the vocabulary of .* is not the model's"
    ):
        answers(large, tmp_path, assistant_model=str(other))
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings(large, tmp_path, assistant_model=str(tmp_path / "no"))))
    with pytest.raises(
        ConfigError, match=r"assistant_model: .*/no does not exist; allowed: a model's folder"
    ):
        main(["--config", str(path)])
