"""A P-tuning run through the recipes: what a step keeps, a resume bit for bit, answers from a step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindformers.checkpoint.step_format import read_manifest
from mindformers.errors import ConfigError
from mindformers.models.auto import AutoModel
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.pet import load_adapter
from mindformers.tasks.finetune import finetune
from mindformers.tasks.predict import predict
from tests.support.adapter_run import AdapterRun, require_same_end, tensors

pytestmark = pytest.mark.usefixtures("pynative")
PET = {"pet_type": "ptuning2", "pre_seq_len": 6, "prefix_projection": True, "projection_dim": 8,
       "dropout_prob": 0.2}  # fmt: skip
ROWS = "transformer.prefix_encoder.embedding.weight"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> AdapterRun:
    return AdapterRun(
        tmp_path_factory.mktemp("ptuning"), PET, arch={"type": "ChatGLM2WithPtuning2"}
    )


def test_a_step_keeps_the_prefix_and_its_optimizer_state_alone(run: AdapterRun) -> None:
    found = tensors(run.step(4))
    names = {name.removeprefix("adam_m.").removeprefix("adam_v.") for name in found}
    assert len(found) == 3 * len(names) == 3 * 5  # rows, and weight and bias of two layers
    assert all(name.startswith("transformer.prefix_encoder.") for name in names)
    assert (found[ROWS] != tensors(run.step(1))[ROWS]).any()
    info = read_manifest(run.step(4)).info
    assert info["adapter_base"] == str(run.base.resolve())


def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(run: AdapterRun, tmp_path: Path) -> None:
    finetune(run.resumed(tmp_path))
    require_same_end(run, tmp_path)


def test_recomputed_layers_give_the_same_step(run: AdapterRun, tmp_path: Path) -> None:
    recompute = {"recompute_config": {"recompute": True}}
    finetune(run.config(output_dir=str(tmp_path), **recompute))
    found = tensors(tmp_path / "checkpoint" / "step_00000001")
    for name, array in tensors(run.step(1)).items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-6, err_msg=name)


def test_a_step_answers_and_so_does_the_network_it_is_loaded_into(
    run: AdapterRun, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
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


def test_an_untrained_prefix_does_not_answer(run: AdapterRun) -> None:
    config = run.config(input_data="hello", run_mode="predict")
    with pytest.raises(ConfigError, match="ask for a trained prefix, and these weights hold none"):
        predict(config)
