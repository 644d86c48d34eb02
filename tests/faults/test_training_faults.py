"""Training under faults: killed saves, signals, two runs in one folder, full disks, bad numbers."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mindformers.checkpoint.manifest import committed_steps
from mindformers.errors import CheckpointError, TrainingError
from mindformers.training import step_folder
from mindformers.training.callbacks import Callback, CheckpointMonitor, MetricsWriter
from mindformers.training.loop import train
from mindformers.training.output_lock import LOCK_NAME, OWNER_NAME, OutputLock
from mindformers.training.resume import find_resume_folder
from mindformers.training.run import TrainSettings
from tests.unit.training.toy import VOCAB, Losses, ToyData, ToyNet, toy_step, weights_of

pytestmark = pytest.mark.usefixtures("pynative")
CHILD = Path(__file__).resolve().parents[1] / "unit" / "training" / "child.py"


def run(folder, *callbacks, step=None, data=None, resume=None, **settings):
    step, losses = step or toy_step(), Losses()
    result = train(
        step, data or ToyData(), TrainSettings(output_dir=folder, seed=5, **settings),
        callbacks=[*callbacks, losses], resume_from=resume,
    )  # fmt: skip
    return result, losses, step


def child(folder, fault, **options):
    return subprocess.Popen(
        [sys.executable, str(CHILD), str(folder), fault], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def names(folder):
    return [path.name for path in committed_steps(folder / "checkpoint")]


def test_a_run_killed_between_the_files_of_a_save_resumes_from_the_step_before(tmp_path):
    broken = tmp_path / "broken"
    process = child(broken, "kill-in-save")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    hidden = [p for p in (broken / "checkpoint").iterdir() if p.name.startswith(".tmp-")]
    assert hidden, "the save was under way"
    assert names(broken) == ["step_00000002"]
    assert (broken / OWNER_NAME).exists(), "the dead run could not tidy up"

    folder = find_resume_folder(True, "", broken)
    monitor = CheckpointMonitor("toy", save_checkpoint_steps=2, checkpoint_format="safetensors")
    _, rest, resumed = run(broken, monitor, step=toy_step(ToyNet(seed=8)), resume=folder)
    _, whole, unbroken = run(tmp_path / "whole")
    assert rest.curve == whole.curve[2:]
    for name, value in weights_of(unbroken.network).items():
        assert weights_of(resumed.network)[name].tobytes() == value.tobytes()
    assert not any(p.exists() for p in hidden), "leftovers are removed at the next start"


class SignalAt(Callback):
    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_step_end(self, run, report):
        if report.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_it_and_has_its_exit_code(tmp_path, number, code):
    monitor = CheckpointMonitor("toy", save_checkpoint_steps=100)
    before = signal.getsignal(number)
    result, losses, _ = run(tmp_path, SignalAt(3, number), monitor)
    assert (result.global_step, result.exit_code) == (3, code)
    assert losses.events[-2:] == ["step 3", "end"]
    assert names(tmp_path) == ["step_00000003"]
    assert signal.getsignal(number) == before
    resumed, rest, _ = run(tmp_path, resume=find_resume_folder(True, "", tmp_path))
    assert (resumed.exit_code, rest.curve[0][0]) == (0, 4)


def test_a_second_interrupt_ends_the_process_at_once(tmp_path):
    process = child(tmp_path, "two-interrupts")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT
    assert names(tmp_path) == ["step_00000002"], "nothing half is left"


def test_a_second_run_in_one_folder_is_refused_with_the_first_ones_process(tmp_path):
    process = child(tmp_path, "hold")
    try:
        assert process.stdout.readline() == "holding\n"
        with pytest.raises(TrainingError) as caught:
            run(tmp_path)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path}: another run writes here (process {process.pid} on ")
        assert message.endswith("; wait for it, stop it, or give this run another output_dir")
    finally:
        process.kill()
        process.communicate(timeout=30)
    result, _, _ = run(tmp_path, max_steps=1)  # the lock of a dead process holds nobody up
    assert result.global_step == 1


def test_the_lock_of_a_dead_run_is_taken_over_and_named(tmp_path, caplog, monkeypatch):
    from mindformers.logger import logger

    monkeypatch.setattr(logger, "propagate", True)
    (tmp_path / LOCK_NAME).touch()
    owner = {"pid": 999999, "host": "elsewhere", "since": "2024-01-01 00:00:00"}
    (tmp_path / OWNER_NAME).write_text(json.dumps(owner))
    with OutputLock(tmp_path):
        assert json.loads((tmp_path / OWNER_NAME).read_text())["pid"] == os.getpid()
    assert "took over the lock of a run that died (process 999999 on elsewhere" in caplog.text
    assert not (tmp_path / OWNER_NAME).exists()


def test_an_output_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError) as caught:
        run(tmp_path / "file" / "out")
    assert str(caught.value) == (
        f"{tmp_path / 'file' / 'out'}: cannot be written: Not a directory; "
        "choose a writable output_dir"
    )


def test_a_full_disk_stops_the_run_clearly_and_leaves_the_step_before(tmp_path, monkeypatch):
    monitor = CheckpointMonitor("toy", save_checkpoint_steps=2, checkpoint_format="safetensors")
    write = step_folder.write_safetensors

    def full(path, tensors):
        if "1_4" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, tensors)

    monkeypatch.setattr(step_folder, "write_safetensors", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        run(tmp_path, monitor)
    assert names(tmp_path) == ["step_00000002"]
    assert find_resume_folder(True, "", tmp_path).name == "step_00000002"
    assert not [p for p in (tmp_path / "checkpoint").iterdir() if p.name.startswith(".")]


def test_a_loss_that_is_not_finite_keeps_the_last_good_step_and_no_bad_one(tmp_path):
    data = ToyData()
    order = np.random.default_rng((data.seed, 0)).permutation(data.num_rows)
    data.ids[order[6], 0] = VOCAB - 1  # in the fourth batch
    step = toy_step(ToyNet(spike=1e30))
    monitor = CheckpointMonitor("toy", save_checkpoint_steps=2, checkpoint_format="safetensors")
    with pytest.raises(TrainingError, match="step 4 "):
        run(tmp_path, MetricsWriter(False), monitor, step=step, data=data)
    assert names(tmp_path) == ["step_00000002", "step_00000003"]
    saved = load_file(tmp_path / "checkpoint/step_00000003/rank_0/toy_rank_0-1_3.safetensors")
    for name, value in weights_of(step.network).items():
        assert np.isfinite(value).all()
        assert saved[name].tobytes() == value.tobytes()
    moments = load_file(tmp_path / "checkpoint/step_00000003/rank_0/optimizer.safetensors")
    assert all(np.isfinite(value).all() for value in moments.values())
