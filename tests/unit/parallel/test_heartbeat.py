from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers.parallel import heartbeat
from mindformers.parallel.heartbeat import FILE_VARIABLE, beat, read_beat


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    heartbeat._pulse = None
    if hasattr(heartbeat.faulthandler, "unregister"):
        heartbeat.faulthandler.unregister(signal.SIGUSR1)


@pytest.fixture
def target(tmp_path, monkeypatch):
    path = tmp_path / "beat"
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    heartbeat._pulse = None
    return path


def test_a_sign_is_what_is_done_and_another_number(target):
    assert read_beat(target) is None
    heartbeat.start()
    first = read_beat(target)
    assert first[1] == "starting"
    beat("step 12")
    second = read_beat(target)
    assert second[1] == "step 12"
    assert second[0] > first[0]


def test_a_shorter_phase_leaves_nothing_of_a_longer_one(target):
    beat("reduce in tensor_parallel")
    beat("save")
    assert read_beat(target)[1] == "save"
    beat("x" * 5000)
    assert len(target.read_bytes()) == 256


def test_the_same_phase_is_written_a_few_times_a_second(target, monkeypatch):
    now = [10.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    beat("step")
    number = read_beat(target)[0]
    now[0] += 0.1
    beat("step")
    assert read_beat(target)[0] == number
    now[0] += 0.2
    beat("step")
    assert read_beat(target)[0] > number


def test_without_a_launcher_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    heartbeat._pulse = None
    heartbeat.start()
    beat("step")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/nonexistent/beat", "/dev/full"])
def test_a_file_that_cannot_be_written_ends_nothing(monkeypatch, path):
    monkeypatch.setenv(FILE_VARIABLE, path)
    heartbeat._pulse = None
    heartbeat.start()
    beat("step")


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")
def test_sigusr1_prints_the_stack_and_the_process_goes_on():
    code = (
        "import os, signal\nfrom mindformers.parallel import heartbeat\nheartbeat.start()\n"
        "def waiting():\n    os.kill(os.getpid(), signal.SIGUSR1)\nwaiting()\nprint('on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
    )  # fmt: skip
    assert done.stdout == "on\n"
    assert "in waiting" in done.stderr
