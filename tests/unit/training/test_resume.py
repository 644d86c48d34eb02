"""A resumed run equals the unbroken one bit for bit; resuming from the wrong thing is refused."""

from __future__ import annotations

import json
import shutil

import mindspore as ms
import numpy as np
import pytest

from mindformers.errors import CheckpointError, DataError
from mindformers.training.callbacks import CheckpointMonitor
from mindformers.training.loop import train
from mindformers.training.lr_schedule import build_schedule
from mindformers.training.optimizer import SGD
from mindformers.training.resume import find_resume_folder
from mindformers.training.run import TrainSettings
from mindformers.training.state import (
    TrainState,
    random_state,
    read_state,
    restore_random_state,
)
from mindformers.training.train_step import MFTrainOneStepCell
from tests.unit.training.toy import Losses, ToyData, ToyNet, toy_step, weights_of

EPOCHS, ACCUMULATION = 3, 2  # 3 steps per epoch
SECTION = {"type": "cosine", "learning_rate": 3e-2, "warmup_ratio": 0.2, "lr_end": 1e-3}


def run(folder, *, step=None, data=None, resume=None, callbacks=(), form="safetensors", **settings):
    """Train the toy; return (step, losses)."""
    step = step or toy_step(use_clip_grad=True)
    losses = Losses()
    monitor = CheckpointMonitor("toy", save_checkpoint_steps=4, checkpoint_format=form)
    settings = {"epochs": EPOCHS, "accumulation": ACCUMULATION, "seed": 5} | settings
    train(
        step,
        data or ToyData(),
        TrainSettings(output_dir=folder, **settings),
        schedule=build_schedule(SECTION, total_steps=9),
        callbacks=[*callbacks, losses, monitor],
        resume_from=resume,
    )
    return step, losses


def state_bytes(step):
    every = {p.name: p.asnumpy() for p in step.optimizer.state_parameters()}
    return {name: array.tobytes() for name, array in (every | weights_of(step.network)).items()}


@pytest.mark.parametrize(("stop", "form"), [(5, "safetensors"), (6, "ckpt")], ids=["mid", "end"])
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(mode, tmp_path, stop, form):
    unbroken, whole = run(tmp_path / "whole", form=form)
    run(tmp_path / "broken", max_steps=stop, form=form)
    folder = find_resume_folder(True, "", tmp_path / "broken")
    assert folder.name == f"step_{stop:08d}"
    other = toy_step(ToyNet(seed=99), use_clip_grad=True)  # what is loaded must replace this
    resumed, rest = run(tmp_path / "broken", step=other, resume=folder, form=form)
    assert [step for step, _, _ in rest.curve] == list(range(stop + 1, 10))
    assert rest.curve == whole.curve[stop:]
    assert state_bytes(resumed) == state_bytes(unbroken)
    assert resumed.optimizer.step == 9


def test_bfloat16_weights_and_their_masters_resume_bit_for_bit(pynative, tmp_path):
    unbroken, whole = run(tmp_path / "whole", step=toy_step(ToyNet(dtype=ms.bfloat16)))
    run(tmp_path / "broken", step=toy_step(ToyNet(dtype=ms.bfloat16)), max_steps=5)
    folder = find_resume_folder(True, None, tmp_path / "broken")
    other = toy_step(ToyNet(seed=9, dtype=ms.bfloat16))
    resumed, rest = run(tmp_path / "broken", step=other, resume=folder)
    assert rest.curve == whole.curve[5:]
    assert state_bytes(resumed) == state_bytes(unbroken)


def test_the_step_folder_holds_what_a_resume_needs_under_upstreams_names(pynative, tmp_path):
    run(tmp_path, max_steps=5, config_text="seed: 5\n")
    folder = tmp_path / "checkpoint" / "step_00000005"
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == [
        "config.yaml",
        "manifest.json",
        "rank_0/optimizer.safetensors",
        "rank_0/state.json",
        "rank_0/toy_rank_0-2_2.safetensors",
    ]
    assert (folder / "config.yaml").read_text() == "seed: 5\n"
    state = read_state(folder / "rank_0" / "state.json")
    assert (state.global_step, state.epoch, state.step_in_epoch) == (5, 2, 2)
    assert (state.consumed_samples, state.consumed_tokens) == (20, 120)
    assert state.optimizer == "AdamW"
    assert state.optimizer_step == 5


def test_the_random_generator_is_restored():
    ms.manual_seed(3)
    state = random_state()
    ms.manual_seed(4)
    assert random_state() != state
    restore_random_state(state)
    assert random_state() == state


@pytest.mark.parametrize(
    ("resume", "load"),
    [
        (True, ""),
        (True, "{out}/checkpoint"),
        (True, "{out}"),
        (True, "{out}/checkpoint/step_00000005"),
        ("step_00000005", ""),
        ("{out}/checkpoint/step_00000005", ""),
        ("toy_rank_0-2_2.safetensors", ""),
        ("{out}/checkpoint/step_00000005/rank_0/toy_rank_0-2_2.safetensors", ""),
        ("step_00000005", "{out}/checkpoint/step_00000004"),
    ],
)
def test_a_step_is_found_by_switch_path_and_name(pynative, tmp_path_factory, resume, load):
    out = _saved_run(tmp_path_factory)
    resume = resume.format(out=out) if isinstance(resume, str) else resume
    found = find_resume_folder(resume, load.format(out=out), out)
    assert found == out / "checkpoint" / "step_00000005"


_saved = []


def _saved_run(tmp_path_factory):
    if not _saved:
        _saved.append(tmp_path_factory.mktemp("saved"))
        run(_saved[0], max_steps=5)
    return _saved[0]


def test_without_resume_training_a_run_starts_anew(tmp_path):
    assert find_resume_folder(False, "somewhere", tmp_path) is None
    assert find_resume_folder("", None, tmp_path) is None


def test_nothing_to_resume_from_is_said(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        find_resume_folder(True, "", tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'checkpoint'}: no committed step to resume")


def test_a_misspelt_step_is_answered_with_the_nearest(pynative, tmp_path_factory):
    out = _saved_run(tmp_path_factory)
    with pytest.raises(CheckpointError) as caught:
        find_resume_folder("step_0000005", "", out)
    assert "no step or weight file is called 'step_0000005'" in str(caught.value)
    assert "did you mean 'step_00000005'" in str(caught.value)


def test_other_data_is_refused_unless_allowed(pynative, tmp_path, tmp_path_factory, run_log):
    out = _saved_run(tmp_path_factory)
    folder = find_resume_folder(True, "", out)
    changed = ToyData(fingerprint="another")
    with pytest.raises(DataError) as caught:
        run(tmp_path, data=changed, resume=folder)
    assert str(caught.value) == (
        "resume_training: the data is not what the checkpoint was trained on "
        "(data_fingerprint toy -> another); restore it, or allow it with --allow_data_change true"
    )
    _, losses = run(tmp_path, data=changed, resume=folder, allow_data_change=True)
    assert losses.curve[0][0] == 6
    assert "the data changed since the checkpoint was saved" in run_log.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "seed 5 -> 6"),
        ({"accumulation": 3}, "accumulation 2 -> 3, steps_per_epoch 3 -> 2"),
    ],
)
def test_another_order_of_the_data_is_refused(
    pynative, tmp_path, tmp_path_factory, change, message
):
    folder = find_resume_folder(True, "", _saved_run(tmp_path_factory))
    with pytest.raises(DataError, match=message):
        run(tmp_path, resume=folder, **change)


def test_more_epochs_are_no_change_of_the_data(pynative, tmp_path, tmp_path_factory):
    folder = find_resume_folder(True, "", _saved_run(tmp_path_factory))
    _, losses = run(tmp_path, resume=folder, epochs=EPOCHS + 1)
    assert losses.curve[-1][0] == 12


def test_another_optimizer_is_refused(pynative, tmp_path, tmp_path_factory):
    folder = find_resume_folder(True, "", _saved_run(tmp_path_factory))
    network = ToyNet()
    step = MFTrainOneStepCell(network, SGD(network.trainable_params()))
    with pytest.raises(CheckpointError) as caught:
        run(tmp_path, step=step, resume=folder)
    assert str(caught.value).startswith(
        "optimizer.type: the checkpoint was trained with AdamW, this run uses SGD"
    )


def test_another_model_is_refused_by_the_first_weight(pynative, tmp_path, tmp_path_factory):
    folder = find_resume_folder(True, "", _saved_run(tmp_path_factory))
    with pytest.raises(CheckpointError) as caught:
        run(tmp_path, step=toy_step(ToyNet(layers=3)), resume=folder)
    assert "2 weights of the network are missing, 0 are unknown (first: layers.2.bias)" in str(
        caught.value
    )
    with pytest.raises(CheckpointError) as caught:
        run(tmp_path, step=toy_step(ToyNet(dtype=ms.float16)), resume=folder)
    assert "embedding: is float32 (16, 8); allowed: float16 (16, 8)" in str(caught.value)


def test_a_step_without_optimizer_state_cannot_be_resumed(pynative, tmp_path):
    monitor = CheckpointMonitor(save_optimizer=False)
    settings = TrainSettings(max_steps=1, output_dir=tmp_path)
    train(toy_step(), ToyData(), settings, callbacks=[monitor])
    folder = find_resume_folder(True, "", tmp_path)
    with pytest.raises(CheckpointError, match="holds no optimizer state; resume from a step saved"):
        run(tmp_path / "next", resume=folder)


def test_a_damaged_step_is_passed_over_and_named(pynative, tmp_path, tmp_path_factory, run_log):
    shutil.copytree(_saved_run(tmp_path_factory), tmp_path / "copy")
    newest = tmp_path / "copy" / "checkpoint" / "step_00000005"
    path = newest / "rank_0" / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert find_resume_folder(True, "", tmp_path / "copy").name == "step_00000004"
    assert "step_00000005 is skipped" in run_log.text


def test_a_state_file_of_a_later_release_is_refused(tmp_path):
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"version": 99, "global_step": 1}))
    with pytest.raises(CheckpointError, match="no usable training state: version 99"):
        read_state(path)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="no usable training state"):
        read_state(path)


def test_a_state_survives_the_way_to_disk_and_back(tmp_path):
    state = TrainState(global_step=7, elapsed_seconds=1.25, schedule="x", rng_state="0a")
    (tmp_path / "state.json").write_text(state.to_json())
    assert read_state(tmp_path / "state.json") == state
    assert np.isclose(state.elapsed_seconds, 1.25)
