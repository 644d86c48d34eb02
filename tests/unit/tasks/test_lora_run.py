"""A LoRA run through the recipes: what a step keeps, a resume bit for bit, answers from a step."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mindformers.checkpoint.step_format import read_manifest
from mindformers.errors import CheckpointError
from mindformers.models.auto import AutoModel
from mindformers.pet import load_adapter, merge_adapter
from mindformers.tasks.finetune import finetune
from mindformers.tasks.predict import predict
from tests.support.adapter_run import AdapterRun, require_same_end, tensors

pytestmark = pytest.mark.usefixtures("pynative")
PET = {"pet_type": "lora", "lora_rank": 4, "lora_dropout": 0.1, "target_modules": ".*"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> AdapterRun:
    return AdapterRun(tmp_path_factory.mktemp("lora"), PET)


def test_a_step_keeps_the_adapters_and_their_optimizer_state_alone(run: AdapterRun) -> None:
    found = tensors(run.step(4))
    names = {name.removeprefix("adam_m.").removeprefix("adam_v.") for name in found}
    assert len(found) == 3 * len(names) == 3 * 2 * 2 * 4  # A and B of four layers in two blocks
    assert all(name.endswith(("mindpet_delta_lora_a", "mindpet_delta_lora_b")) for name in names)
    info = read_manifest(run.step(4)).info
    assert info["adapter_base"] == str(run.base.resolve())
    assert len(info["adapter_base_mark"]) == 64


def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(run: AdapterRun, tmp_path: Path) -> None:
    finetune(run.resumed(tmp_path))  # with dropout, so the random generator goes on as well
    require_same_end(run, tmp_path)


def test_a_base_that_moved_is_asked_for_and_found(run: AdapterRun, tmp_path: Path) -> None:
    config = run.resumed(tmp_path / "out")
    shutil.move(run.base, tmp_path / "moved")
    try:
        with pytest.raises(CheckpointError, match=r"checkpoint_name_or_path"):
            finetune(config)
        moved = {"checkpoint_name_or_path": str(tmp_path / "moved")}
        config = run.config(
            moved, output_dir=str(tmp_path / "out"), load_checkpoint="", resume_training=True
        )
        assert finetune(config).global_step == 4
    finally:
        shutil.move(tmp_path / "moved", run.base)


def test_another_base_than_the_steps_is_refused(run: AdapterRun, tmp_path: Path) -> None:
    network = AutoModel.from_pretrained(run.base)
    network.transformer.encoder.layers[0].mlp.dense_4h_to_h.weight.asnumpy()[0, 0] += 1
    other = network.save_pretrained(tmp_path / "other")
    config = run.resumed(tmp_path / "out")
    wrong = run.config(
        {"checkpoint_name_or_path": str(other)},
        output_dir=config.output_dir,
        load_checkpoint="",
        resume_training=True,
    )
    with pytest.raises(CheckpointError, match="trained on other weights"):
        finetune(wrong)


def test_other_settings_than_the_steps_are_refused(run: AdapterRun, tmp_path: Path) -> None:
    config = run.resumed(tmp_path / "out")
    other = {"pet_config": {**PET, "lora_rank": 2}}
    with pytest.raises(CheckpointError, match="mindpet_delta_lora_a: is float32"):
        finetune(
            run.config(
                other, output_dir=config.output_dir, load_checkpoint="", resume_training=True
            )
        )


def test_a_step_answers_as_the_merged_network_does(
    run: AdapterRun, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"max_new_tokens": 8, "do_sample": False}
    ops = {"ops": {"backend": backend}}
    with_step = predict(
        run.config(
            load_checkpoint=str(run.step(4)),
            input_data="hello",
            **ops,
        ),
        **settings,
    )
    merged = merge_adapter(load_adapter(AutoModel.from_pretrained(run.base), run.step(4)))
    folder = merged.save_pretrained(tmp_path / "merged")
    plain = {"pet_config": None}
    assert with_step == predict(
        run.config(plain, load_checkpoint=str(folder), input_data="hello", **ops), **settings
    )
