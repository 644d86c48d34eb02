"""Runs of a real GLM that must not start, or must stop: settings, folders and numbers that are wrong."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.errors import CheckpointError, ConfigError, TrainingError
from mindformers.models.auto import AutoModel
from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
from mindformers.tasks.finetune import finetune
from mindformers.tasks.predict import RESULT_FILE, predict
from mindformers.training.output_lock import OutputLock
from mindformers.training.run import TrainResult
from tests.support.mindrecords import write_numbered
from tests.support.model_dir import tiny_settings, write_model_dir

pytestmark = pytest.mark.usefixtures("pynative")


class Parts:
    """A model directory, its settings and a data set of 8 rows."""

    def __init__(self, folder: Path):
        from mindformers.parallel.runtime import start_runtime

        start_runtime(device_target="CPU", mode=1)
        self.model = write_model_dir(folder / "model")
        from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer

        self.settings = tiny_settings(ChatGLM4Tokenizer(self.model / "tokenizer.model"))
        self.rows = write_numbered(folder / "rows.mindrecord", 8)

    def run(self, output: Path, network: dict | None = None, **changes):
        """Return the settings of a run of four steps, saved after each."""
        return MindFormerConfig(
            {
                "output_dir": str(output),
                "load_checkpoint": str(self.model),
                "context": {"device_target": "CPU", "mode": 1},
                "use_parallel": False,
                "model": {
                    "model_config": {
                        "type": "ChatGLM2Config",
                        **self.settings,
                        **(network or {}),
                    },
                    "arch": {"type": "ChatGLM2ForConditionalGeneration"},
                },
                "train_dataset": {
                    "data_loader": {"type": "MindDataset", "dataset_dir": str(self.rows)}
                },
                "runner_config": {"epochs": 1, "batch_size": 2},
                "callbacks": [{"type": "CheckpointMonitor", "save_checkpoint_steps": 1}],
                **changes,
            }
        ).bind()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def done(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of a finished run."""
    output = tmp_path_factory.mktemp("done")
    assert isinstance(finetune(parts.run(output)), TrainResult)
    return output


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail as soon as a network is built."""

    def built(*_: object) -> None:
        raise AssertionError("the network is built before the mistake is told")

    monkeypatch.setattr(ChatGLM2ForConditionalGeneration, "__init__", built)


def steps(output: Path) -> list[str]:
    return sorted(entry.name for entry in (output / "checkpoint").iterdir())


# --- checkpoint and settings disagree ----------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("task", [finetune, predict])
def test_weights_of_another_rope_ratio_are_refused_before_anything_is_built(
    task, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = parts.run(tmp_path / "out", {"rope_ratio": 500}, input_data="hello")
    with pytest.raises(CheckpointError) as caught:
        task(config)
    first, *rest = str(caught.value).splitlines()
    assert first.startswith(f"{parts.model / 'config.json'}: disagrees with the run's model_config")
    assert rest == ["  rope_ratio: 500.0 in the run, 1.0 with the weights"]
    assert not (tmp_path / "out" / "config.yaml").exists()


@pytest.mark.usefixtures("no_network")
def test_weights_without_a_description_are_compared_by_their_shapes(
    parts: Parts, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    alone = tmp_path / "weights.safetensors"
    save_file(load_file(parts.model / "model.safetensors"), alone)
    config = parts.run(tmp_path / "out", {"multi_query_group_num": 4}, load_checkpoint=str(alone))
    with pytest.raises(CheckpointError, match="these weights have multi_query_group_num 2"):
        finetune(config)


@pytest.mark.parametrize("given", [False, True], ids=["built here", "given"])
def test_a_run_is_not_resumed_with_another_network(
    given: bool, parts: Parts, done: Path, tmp_path: Path
) -> None:
    config = parts.run(
        tmp_path, {"rope_ratio": 500}, resume_training=True, load_checkpoint=str(done)
    )
    network = AutoModel.from_pretrained(parts.model, load_weights=False, rope_ratio=500)
    with pytest.raises(CheckpointError, match=r"step_0+4/config\.yaml: disagrees.*\n  rope_ratio"):
        finetune(config, network=network if given else None)


@pytest.mark.usefixtures("no_network")
def test_a_prediction_without_weights_is_refused_at_once(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match="load_checkpoint: no weights are named; add --load_check"
    ):
        predict(parts.run(tmp_path / "out", load_checkpoint="", input_data="hello"))


# --- folders -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
def test_a_second_run_changes_nothing_in_the_folder_of_the_first(
    parts: Parts, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("of: the first\n", encoding="utf-8")
    with OutputLock(tmp_path), pytest.raises(TrainingError, match="another run writes here"):
        finetune(parts.run(tmp_path))
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == "of: the first\n"


@pytest.mark.parametrize("task", [finetune, predict])
def test_an_output_folder_that_cannot_be_made_names_the_key(
    task, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "out"
    with pytest.raises(ConfigError) as caught:
        task(parts.run(output, input_data="hello"))
    assert str(caught.value) == (
        f"output_dir: {output} cannot be written: Not a directory; "
        "choose another folder with --output_dir"
    )


@pytest.mark.usefixtures("no_network")
def test_answers_that_could_not_be_saved_are_not_computed(parts: Parts, tmp_path: Path) -> None:
    for target, reason in ((tmp_path, "Is a directory"), (tmp_path / "a" / "b", "File exists")):
        (tmp_path / "a").touch()
        config = parts.run(tmp_path / "out", input_data="hello", save_file=str(target))
        with pytest.raises(CheckpointError, match=f"{target}: cannot write: {reason}"):
            predict(config)
    assert not (tmp_path / "out").exists()


def test_a_prompt_that_looks_like_a_lost_file_is_answered_with_a_warning(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.chdir(tmp_path)
    network = {"max_decode_length": 24}
    monkeypatch.setattr(logging.getLogger("mindformers"), "propagate", True)
    prompts = ["data/prompts.txt", "and/or what?", "hello.txt"]
    answers = predict(parts.run(tmp_path / "out", network, input_data=prompts), max_new_tokens=2)
    assert json.loads((tmp_path / RESULT_FILE).read_text(encoding="utf-8")) == answers
    assert "there is no file data/prompts.txt; it is answered as a text" in caplog.text
    assert "there is no file hello.txt" in caplog.text
    assert "no file and/or" not in caplog.text


# --- numbers that are not finite -----------------------------------------------------------------


def test_a_weight_that_is_inf_is_named_with_the_step(parts: Parts, tmp_path: Path) -> None:
    network = AutoModel.from_pretrained(parts.model)
    name = "transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"
    weight = network.weight_parameters()[name]
    values = weight.asnumpy().copy()
    values[3, 5] = np.inf
    weight.set_data(type(weight)(values))
    with pytest.raises(TrainingError) as caught:
        finetune(parts.run(tmp_path), network=network)
    text = str(caught.value)
    assert text.startswith("step 1 (samples 0 to 1 of epoch 1): loss nan")
    assert f"the weight {name} is not finite" in text
    assert not (tmp_path / "checkpoint").exists(), "no step of such weights is kept"


def test_a_layer_that_overflows_is_named_and_the_good_steps_are_kept(
    parts: Parts, done: Path, tmp_path: Path
) -> None:
    """Weights that are finite, but too large to multiply, come in with the third step."""
    from mindformers.training.callback import Callback

    class Spoiler(Callback):
        def on_step_end(self, run, report) -> None:
            if report.global_step == 2:
                gate = "transformer.encoder.layers.1.mlp.dense_h_to_4h.weight"
                weight = run.step.network.weight_parameters()[gate]
                weight.set_data(weight * 1e22)

    with pytest.raises(TrainingError) as caught:
        finetune(parts.run(tmp_path), callbacks=[Spoiler()])
    text = str(caught.value)
    assert text.startswith("step 3 (samples 4 to 5 of epoch 1): loss nan")
    assert "first bad layer: transformer.encoder.layers.1.mlp" in text
    assert steps(tmp_path)[:2] == steps(done)[:2] == ["step_00000001", "step_00000002"]
    assert AutoModel.from_pretrained(parts.model).load_checkpoint(
        tmp_path / "checkpoint" / "step_00000002"
    )
