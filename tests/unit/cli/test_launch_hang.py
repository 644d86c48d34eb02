from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mindformers.cli import launch_hang
from mindformers.cli.launch_hang import Vigil, _stacks


@dataclass(eq=False)
class FakeWorker:
    name: str
    beat: Path
    is_running: bool = True
    stopped: bool = False

    def is_stopped(self) -> bool:
        return self.stopped


@dataclass
class FakeTeam:
    workers: list[FakeWorker]
    number: int = field(default=0)

    def running(self) -> list[FakeWorker]:
        return [worker for worker in self.workers if worker.is_running]

    def sign(self, rank: int, phase: str) -> None:
        self.number += 1
        self.workers[rank].beat.write_text(f"{self.number} {phase}")


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(launch_hang.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def team(tmp_path):
    return FakeTeam([FakeWorker(f"rank {rank}", tmp_path / f".beat_{rank}") for rank in range(3)])


def advance(clock, vigil, seconds):
    """Let time pass as it does for a launcher that looks often; return what it saw last."""
    for _ in range(int(seconds)):
        clock[0] += 1
        seen = vigil.culprit()
    return seen


def test_a_standstill_begins_with_the_first_sign(clock, team):
    vigil = Vigil(team, hang=10, stopped=0)
    assert advance(clock, vigil, 1000) is None
    team.sign(1, "step 1")
    assert advance(clock, vigil, 10) is None
    assert advance(clock, vigil, 2) is team.workers[1]


def test_one_that_goes_on_speaks_for_all_and_the_oldest_sign_is_the_culprit(clock, team):
    vigil = Vigil(team, hang=10, stopped=0)
    team.sign(2, "forward")
    for step in range(20):
        team.sign(0, f"saving {step}")
        assert advance(clock, vigil, 1) is None
    assert advance(clock, vigil, 15) is team.workers[2]
    assert vigil.last_words(team.workers[2]).endswith("s ago: forward")
    assert vigil.last_words(team.workers[1]) == "has given no sign of life yet"


def test_the_same_words_again_are_a_sign(clock, team):
    vigil = Vigil(team, hang=10, stopped=0)
    for _ in range(30):
        team.sign(0, "step")
        assert advance(clock, vigil, 5) is None


def test_a_launcher_that_was_stopped_itself_blames_nobody(clock, team):
    vigil = Vigil(team, hang=10, stopped=10)
    team.sign(0, "step 1")
    team.workers[1].stopped = True
    advance(clock, vigil, 5)
    clock[0] += 3600
    assert vigil.culprit() is None
    team.workers[1].stopped = False
    assert advance(clock, vigil, 4) is None


def test_a_process_may_be_stopped_for_a_while(clock, team):
    vigil = Vigil(team, hang=0, stopped=10)
    team.workers[2].stopped = True
    assert advance(clock, vigil, 8) is None
    assert vigil.stopped() is team.workers[2]
    team.workers[2].stopped = False
    assert advance(clock, vigil, 1) is None
    assert vigil.stopped() is None
    team.workers[2].stopped = True
    assert advance(clock, vigil, 10) is None
    assert advance(clock, vigil, 2) is team.workers[2]
    assert vigil.last_words(team.workers[2]).startswith("stopped (SIGSTOP)")


def test_one_that_has_ended_does_not_count(clock, team):
    vigil = Vigil(team, hang=10, stopped=0)
    team.sign(0, "end")
    advance(clock, vigil, 1)
    team.workers[0].is_running = False
    assert advance(clock, vigil, 50) is None
    assert vigil.last_words(team.workers[0]) == "has ended"


def test_stacks_keep_the_frames_of_the_package_and_the_user():
    said = """Thread 0x00007f55 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
Current thread 0x00007f56 (most recent call first):
  File "/venv/lib/python3.11/site-packages/mindspore/ops/all.py", line 5 in all_reduce
  File "/repo/mindformers/parallel/collectives.py", line 52 in reduce
  File "<frozen runpy>", line 198 in _run
  File "/home/me/train.py", line 3 in <module>""".splitlines()
    assert _stacks(["loss 1.0", *said]) == [
        "    /repo/mindformers/parallel/collectives.py:52 in reduce",
        "    /home/me/train.py:3 in <module>",
    ]
    assert _stacks(said[:2]) == ["    /usr/lib/python3.11/threading.py:320 in wait"]
