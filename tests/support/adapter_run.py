"""A finished run that trains adapters or a prefix on a tiny base model, for tests of what came of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.config.run_config import RunConfig
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.parallel.runtime import start_runtime
from mindformers.tasks.finetune import finetune
from tests.support.mindrecords import write_numbered
from tests.support.model_dir import tiny_settings, write_model_dir


class AdapterRun:
    """A base model, eight rows, and a finished run of four steps on them, each step kept."""

    def __init__(self, folder: Path, pet: dict[str, Any], **model: Any):
        start_runtime(device_target="CPU", mode=1)
        self.base = write_model_dir(folder / "base")
        settings = tiny_settings(ChatGLM4Tokenizer(self.base / "tokenizer.model"))
        self.model, self.network = model, {**settings, "pet_config": pet}
        self.rows = write_numbered(folder / "rows.mindrecord", 8)
        self.output = folder / "out"
        self.result = finetune(self.config())

    def config(self, network: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
        """Return the run's settings with changes; ``network``: of the model's own."""
        checkpoints = {
            "type": "CheckpointMonitor",
            "save_checkpoint_steps": 1,
            "checkpoint_format": "safetensors",
        }
        data = {"type": "MindDataset", "dataset_dir": str(self.rows)}
        return MindFormerConfig(
            {
                "output_dir": str(self.output),
                "load_checkpoint": str(self.base),
                "context": {"device_target": "CPU", "mode": 1},
                "model": {"model_config": {**self.network, **(network or {})}, **self.model},
                "processor": {"tokenizer": {"vocab_file": str(self.base / "tokenizer.model")}},
                "train_dataset": {"data_loader": data},
                "runner_config": {"epochs": 1, "batch_size": 2},
                "optimizer": {"learning_rate": 1.0e-2},
                "callbacks": [checkpoints],
                **changes,
            }
        ).bind()

    def step(self, number: int) -> Path:
        """Return the folder of a step."""
        return self.output / "checkpoint" / f"step_{number:08d}"

    def resumed(self, folder: Path, **changes: Any) -> RunConfig:
        """Return the settings that go on from step 2, copied to ``folder``."""
        shutil.copytree(self.step(2), folder / "checkpoint" / self.step(2).name)
        return self.config(
            output_dir=str(folder), load_checkpoint="", resume_training=True, **changes
        )


def tensors(step: Path) -> dict[str, np.ndarray]:
    """Return all that a step folder keeps."""
    found = {}
    for path in (step / "rank_0").glob("*.safetensors"):
        found |= load_file(path)
    return found


def require_same_end(run: AdapterRun, resumed: Path) -> None:
    """Fail unless a resumed run ended with the very bits of the unbroken one."""
    end = "checkpoint/step_00000004"
    unbroken, found = tensors(run.output / end), tensors(resumed / end)
    assert sorted(unbroken) == sorted(found)
    for name, array in unbroken.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
