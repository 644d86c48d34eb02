"""Predicting with adapters by name: each prompt is answered as a network with just its adapters answers it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.config.run_config import RunConfig
from mindformers.errors import CheckpointError, ConfigError
from mindformers.models.auto import AutoModel
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.parallel.runtime import start_runtime
from mindformers.pet import get_pet_model, save_adapter
from mindformers.pet.lora import adapter_parameters
from mindformers.tasks.predict import predict
from tests.support.model_dir import tiny_settings, write_model_dir

pytestmark = pytest.mark.usefixtures("pynative")
PET = {"pet_type": "lora", "lora_rank": 2, "target_modules": ".*layers.*"}
SAMPLING = {"max_new_tokens": 6, "do_sample": False}
PROMPTS = ["hello", "world", "hello", "the model"]


class Parts:
    """A model directory, and two adapters of it that change its answers."""

    def __init__(self, folder: Path):
        start_runtime(device_target="CPU", mode=1)
        self.base = write_model_dir(folder / "base")
        self.tokenizer = ChatGLM4Tokenizer(self.base / "tokenizer.model")
        self.adapters = [self.adapter(folder / name, seed) for seed, name in enumerate(("a", "b"))]

    def adapter(self, folder: Path, seed: int) -> Path:
        network = get_pet_model(AutoModel.from_pretrained(self.base), PET)
        rng = np.random.default_rng(seed)
        for parameter in adapter_parameters(network):
            values = rng.normal(0, 0.5, parameter.shape)
            parameter.set_data(Tensor(values.astype(np.float32)))
        return save_adapter(network, folder)

    def config(self, folder: Path, **changes) -> RunConfig:
        network = {**tiny_settings(self.tokenizer), "pet_config": PET}
        return MindFormerConfig(
            {
                "run_mode": "predict",
                "output_dir": str(folder),
                "save_file": str(folder / "answers.txt"),
                "load_checkpoint": str(self.base),
                "input_data": PROMPTS,
                "context": {"device_target": "CPU", "mode": 1},
                "model": {"model_config": network},
                "processor": {"tokenizer": {"vocab_file": str(self.base / "tokenizer.model")}},
                **changes,
            }
        ).bind()

    def answers(self, folder: Path, **changes) -> list[str]:
        found = predict(self.config(folder, **changes), **SAMPLING)
        return [each["text_generation_text"][0] for each in found]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("adapters"))


def test_each_prompt_is_answered_with_its_own_adapter(
    parts: Parts, tmp_path: Path, backend: str
) -> None:
    ops = {"backend": backend}
    first, second = map(str, parts.adapters)
    alone = [parts.answers(tmp_path, load_checkpoint=each, ops=ops) for each in (first, second)]
    plain = parts.answers(tmp_path, adapter_id="none", ops=ops)
    assert len({alone[0][0], alone[1][0], plain[0]}) == 3  # they matter
    mixed = parts.answers(tmp_path, adapter_id=[first, "none", second, first], ops=ops)
    assert mixed == [alone[0][0], plain[1], alone[1][2], alone[0][3]]
    assert parts.answers(tmp_path, adapter_id=second, ops=ops) == alone[1]


def test_adapters_that_cannot_answer_are_told(parts: Parts, tmp_path: Path) -> None:
    first, second = map(str, parts.adapters)
    with pytest.raises(ConfigError, match="2 adapters for 4 prompts; allowed: one for all"):
        parts.answers(tmp_path, adapter_id=[first, second])
    with pytest.raises(ConfigError, match="holds adapters too.*whole weights"):
        parts.answers(tmp_path, adapter_id=first, load_checkpoint=second)
    with pytest.raises(ConfigError, match="adapter_id: has an effect when predicting only"):
        parts.config(tmp_path, adapter_id=first, run_mode="eval")
    network = AutoModel.from_pretrained(parts.base)
    for parameter in network.weight_parameters().values():
        parameter.set_data(parameter * 2)
    other = network.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="trained on other weights"):
        parts.answers(tmp_path, adapter_id=first, load_checkpoint=str(other))
