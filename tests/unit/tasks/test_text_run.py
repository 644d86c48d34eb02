"""Runs straight from text: packed or not, resumed bit for bit, with whichever tokenizer is at hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.config.run_config import RunConfig
from mindformers.errors import ConfigError
from mindformers.models.auto import AutoModel
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.tasks.finetune import finetune
from mindformers.tasks.trainer import Trainer
from tests.support.model_dir import tiny_settings, write_model_dir

pytestmark = pytest.mark.usefixtures("pynative")


class Run:
    """A model folder, twenty rows of text, and the settings of runs on them."""

    def __init__(self, folder: Path):
        from mindformers.parallel.runtime import start_runtime

        start_runtime(device_target="CPU", mode=1)
        self.base = write_model_dir(folder / "base")
        self.settings = tiny_settings(ChatGLM4Tokenizer(self.base / "tokenizer.model"))
        self.data, self.cache = folder / "rows.json", folder / "cache"
        rows = [{"instruction": f"Say {i}", "output": "one two " * (1 + i % 5)} for i in range(20)]
        self.data.write_text(json.dumps(rows), encoding="utf-8")

    def config(self, output: Path, data: dict | None = None, **changes: Any) -> RunConfig:
        return MindFormerConfig(
            {
                "output_dir": str(output),
                "load_checkpoint": str(self.base),
                "context": {"device_target": "CPU", "mode": 1},
                "model": {"model_config": self.settings},
                "train_dataset": {
                    "data_loader": {"dataset_dir": str(self.data), "shuffle": True},
                    "cache_dir": str(self.cache),
                    **(data or {}),
                },
                "runner_config": {"epochs": 2, "batch_size": 1, "gradient_accumulation_steps": 2},
                "optimizer": {"learning_rate": 1.0e-2},
                "callbacks": [
                    {"type": "CheckpointMonitor", "save_checkpoint_steps": 1, "checkpoint_format": "safetensors"}
                ],
                **changes,
            }
        ).bind()  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("text"))


def weights(output: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    step = sorted((output / "checkpoint").glob("step_*"))[-1]
    return {
        k: v for path in sorted(step.rglob("*.safetensors")) for k, v in load_file(path).items()
    }


def curve(output: Path) -> list[float]:
    return [
        json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize(
    "form", [{"packing": True}, {"dynamic_batch": True, "group_by_length": True, "divisor": 8}]
)
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(
    run: Run, tmp_path: Path, form: dict
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    last = finetune(run.config(whole, form)).global_step
    step = whole / "checkpoint" / f"step_{last - 3:08d}"
    shutil.copytree(step, broken / "checkpoint" / step.name)
    resumed = run.config(broken, form, resume_training=True, load_checkpoint="")
    resumed = resumed.model_copy(update={"processor": _processor(run)})
    assert finetune(resumed).steps == 3
    assert curve(broken)[-3:] == curve(whole)[-3:]
    expected = weights(whole)
    for name, value in weights(broken).items():
        np.testing.assert_array_equal(value, expected[name], name)


def _processor(run: Run) -> Any:
    section = {"processor": {"tokenizer": {"vocab_file": str(run.base / "tokenizer.model")}}}
    return MindFormerConfig(section).bind().processor


def test_one_packed_batch_gives_the_loss_of_the_rows_alone(run: Run, tmp_path: Path) -> None:
    once = {"optimizer": {"learning_rate": 1e-12}}
    plain = run.config(tmp_path / "plain", runner_config={"epochs": 1, "batch_size": 20}, **once)
    finetune(plain)
    packed = run.config(tmp_path / "packed", {"packing": True}, **once,
                        runner_config={"epochs": 1, "batch_size": 1})  # fmt: skip
    finetune(packed)
    rows = [
        json.loads(line)
        for line in (tmp_path / "packed" / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(rows) < 10
    # Steps of other numbers of labels: the mean over all of them is what one batch of all rows gives.
    from mindformers.tasks.build import build_train_dataset

    data = build_train_dataset(packed, AutoModel.from_pretrained(run.base))
    counts = np.array([(batch["labels"] >= 0).sum() for batch in data.batches(0)])
    mean = float((np.array([row["loss"] for row in rows]) * counts).sum() / counts.sum())
    assert mean == pytest.approx(curve(tmp_path / "plain")[0], rel=1e-5)


def test_the_trainer_reads_text_with_its_own_tokenizer(run: Run, tmp_path: Path) -> None:
    network, tokenizer = (
        AutoModel.from_pretrained(run.base),
        ChatGLM4Tokenizer(run.base / "tokenizer.model"),
    )
    config = run.config(tmp_path, {"max_seq_length": 64}, load_checkpoint="").to_dict()
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"content": "q", "summary": "a"}\n' * 6, encoding="utf-8")
    trainer = Trainer(MindFormerConfig(config), "text_generation", network, tokenizer=tokenizer,
                      train_dataset=str(lines))  # fmt: skip
    assert trainer.get_train_dataloader().seq_length == 64
    assert trainer.train().global_step == 6


def test_text_of_another_vocabulary_or_without_one_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no vocabulary is named"):
        finetune(run.config(tmp_path, load_checkpoint=""))
