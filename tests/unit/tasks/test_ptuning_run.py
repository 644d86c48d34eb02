"""A P-tuning run through the recipes: what a step keeps, a resume bit for bit, answers from a step."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mindformers.checkpoint.step_format import read_manifest
from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.config.run_config import RunConfig
from mindformers.errors import ConfigError
from mindformers.models.auto import AutoModel
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.pet import load_adapter
from mindformers.tasks.finetune import finetune
from mindformers.tasks.predict import predict
from tests.support.mindrecords import write_numbered
from tests.support.model_dir import tiny_settings, write_model_dir

pytestmark = pytest.mark.usefixtures("pynative")
PET = {"pet_type": "ptuning2", "pre_seq_len": 6, "prefix_projection": True, "projection_dim": 8,
       "dropout_prob": 0.2}  # fmt: skip
ROWS = "transformer.prefix_encoder.embedding.weight"


class Run:
    """A base model, eight rows, and a finished P-tuning run of four steps on them."""

    def __init__(self, folder: Path):
        from mindformers.parallel.runtime import start_runtime

        start_runtime(device_target="CPU", mode=1)
        self.base = write_model_dir(folder / "base")
        self.settings = tiny_settings(ChatGLM4Tokenizer(self.base / "tokenizer.model"))
        self.rows = write_numbered(folder / "rows.mindrecord", 8)
        self.output = folder / "out"
        self.result = finetune(self.config())

    def config(self, network: dict | None = None, **changes) -> RunConfig:
        return MindFormerConfig(
            {
                "output_dir": str(self.output),
                "load_checkpoint": str(self.base),
                "context": {"device_target": "CPU", "mode": 1},
                "model": {
                    "model_config": {**self.settings, "pet_config": PET, **(network or {})},
                    "arch": {"type": "ChatGLM2WithPtuning2"},
                },
                "train_dataset": {
                    "data_loader": {"type": "MindDataset", "dataset_dir": str(self.rows)}
                },
                "processor": {"tokenizer": {"vocab_file": str(self.base / "tokenizer.model")}},
                "runner_config": {"epochs": 1, "batch_size": 2},
                "optimizer": {"learning_rate": 1.0e-2},
                "callbacks": [
                    {
                        "type": "CheckpointMonitor",
                        "save_checkpoint_steps": 1,
                        "checkpoint_format": "safetensors",
                    }
                ],
                **changes,
            }
        ).bind()

    def step(self, number: int) -> Path:
        return self.output / "checkpoint" / f"step_{number:08d}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("ptuning"))


def tensors(step: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in (step / "rank_0").glob("*.safetensors"):
        found |= load_file(path)
    return found


def test_a_step_keeps_the_prefix_and_its_optimizer_state_alone(run: Run) -> None:
    found = tensors(run.step(4))
    names = {name.removeprefix("adam_m.").removeprefix("adam_v.") for name in found}
    assert len(found) == 3 * len(names) == 3 * 5  # rows, and weight and bias of two layers
    assert all(name.startswith("transformer.prefix_encoder.") for name in names)
    assert (found[ROWS] != tensors(run.step(1))[ROWS]).any()
    info = read_manifest(run.step(4)).info
    assert info["adapter_base"] == str(run.base.resolve())


def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.step(2), tmp_path / "checkpoint" / run.step(2).name)
    finetune(run.config(output_dir=str(tmp_path), load_checkpoint="", resume_training=True))
    unbroken, resumed = (
        tensors(root / "checkpoint" / "step_00000004") for root in (run.output, tmp_path)
    )
    assert sorted(unbroken) == sorted(resumed)
    for name, array in unbroken.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)


def test_recomputed_layers_give_the_same_step(run: Run, tmp_path: Path) -> None:
    recompute = {"recompute_config": {"recompute": True}}
    finetune(run.config(output_dir=str(tmp_path), **recompute))
    found = tensors(tmp_path / "checkpoint" / "step_00000001")
    for name, array in tensors(run.step(1)).items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-6, err_msg=name)


def test_a_step_answers_and_so_does_the_network_it_is_loaded_into(
    run: Run, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"max_new_tokens": 5, "do_sample": False}
    config = run.config(
        load_checkpoint=str(run.output / "checkpoint"), input_data="hello", ops={"backend": backend}
    )
    (answer,) = predict(config, **settings)
    network = load_adapter(AutoModel.from_pretrained(run.base), run.step(4))
    tokenizer = ChatGLM4Tokenizer.from_pretrained(run.base)
    said, _ = network.chat(tokenizer, "hello", **settings)
    assert answer == {"text_generation_text": [said]}


def test_an_untrained_prefix_does_not_answer(run: Run) -> None:
    config = run.config(input_data="hello", run_mode="predict")
    with pytest.raises(ConfigError, match="ask for a trained prefix, and these weights hold none"):
        predict(config)
