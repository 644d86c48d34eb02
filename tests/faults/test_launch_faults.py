"""What goes wrong in a launched run: everybody stops, the reason comes last, nobody is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.launching import (
    COMMAND,
    LIMIT,
    WORKER,
    Ended,
    begin,
    environ,
    finish,
    launch,
    processes_of,
    wait_for,
    wait_until_none_is_left,
)  # fmt: skip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
TEN_SECONDS = 10 + 8  # what the others have to stop, and slack for a busy machine


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path):
    yield
    wait_until_none_is_left(tmp_path)


def last_line(ended: Ended) -> str:
    return ended.err.splitlines()[-1]


def test_the_first_failure_stops_all_and_its_error_comes_last(tmp_path):
    ended = launch(tmp_path, "*:say=hello 1:raise=boom *:sleep=60", 3)
    assert ended.code == 1
    assert ended.seconds < TEN_SECONDS
    assert "launch: rank 1 has failed; stopping the 2 other processes" in ended.err
    assert "exit code 1; log: output/msrun_log/worker_1.log" in ended.err
    assert last_line(ended) == "[rank 1] RuntimeError: boom"


def test_the_exit_code_is_that_of_the_first_failure(tmp_path):
    ended = launch(tmp_path, "2:exit=7 *:sleep=0.5 *:exit=9", 3)
    assert ended.code == 7
    assert "rank 2 failed" in ended.err


def test_a_killed_worker_is_told_by_the_name_of_the_signal(tmp_path):
    ended = launch(tmp_path, f"0:kill={int(signal.SIGKILL)} *:sleep=60", 2)
    assert ended.code == 128 + signal.SIGKILL
    assert "rank 0 failed" in ended.err
    assert "killed by SIGKILL; when nobody did it, memory ran out" in ended.err


def test_a_crash_shows_the_python_line_it_came_from(tmp_path):
    ended = launch(tmp_path, f"1:kill={int(signal.SIGSEGV)} *:sleep=60", 2)
    assert ended.code == 128 + signal.SIGSEGV
    assert "[rank 1] Fatal Python error: Segmentation fault" in ended.err
    assert "fake_worker.py" in last_line(ended)


def test_workers_that_ignore_sigterm_and_their_children_are_killed(tmp_path):
    ended = launch(tmp_path, "*:deaf *:child=same 1:sleep=1 1:exit=3 *:sleep=60", 3)
    assert ended.code == 3
    assert ended.seconds < TEN_SECONDS


def test_a_child_in_a_session_of_its_own_does_not_outlive_the_run(tmp_path):
    ended = launch(tmp_path, "0:child=own *:sleep=0.3", 2)
    assert ended.code == 0
    assert (tmp_path / "child_0").is_file()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_lets_the_workers_save(tmp_path, number, code):
    process = begin(tmp_path, "*:save_on_signal=143 *:say=ready *:sleep=60", 2)
    wait_for(tmp_path, "[rank 0] ready", "[rank 1] ready")
    process.send_signal(number)
    ended = finish(process)
    assert ended.code == code
    said = wait_for(tmp_path, "[rank 0] saved", "[rank 1] saved")
    assert ("SIGINT" if number == signal.SIGINT else "SIGTERM") in said
    assert f"stopped by {number.name}" in last_line(ended)


def test_workers_that_do_not_stop_are_killed_when_their_time_is_over(tmp_path):
    process = begin(tmp_path, "*:deaf *:say=ready *:sleep=60", 2, MF_STOP_SECONDS=1)
    wait_for(tmp_path, "[rank 0] ready", "[rank 1] ready")
    process.terminate()
    ended = finish(process)
    assert ended.code == 143
    assert ended.seconds < TEN_SECONDS
    assert "rank 0, rank 1 did not end in time and had to be killed" in ended.err


def test_a_second_signal_ends_the_run_at_once(tmp_path):
    process = begin(tmp_path, "*:deaf *:say=ready *:sleep=60", 2)
    wait_for(tmp_path, "[rank 0] ready", "[rank 1] ready")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert ended.code == 130
    assert ended.seconds < TEN_SECONDS


def test_a_failure_while_saving_is_told(tmp_path):
    process = begin(tmp_path, "*:save_on_signal=5 *:say=ready *:sleep=60", 2)
    wait_for(tmp_path, "[rank 0] ready", "[rank 1] ready")
    process.terminate()
    ended = finish(process)
    assert ended.code == 143
    assert "rank 0 failed while it stopped (exit code 5)" in ended.err


def test_nothing_outlives_a_launcher_that_is_killed(tmp_path):
    process = begin(tmp_path, "*:deaf *:child=same *:say=ready *:sleep=60", 3)
    wait_for(tmp_path, "[rank 0] ready", "[rank 1] ready", "[rank 2] ready")
    assert len(processes_of(tmp_path)) >= 7
    process.kill()
    process.wait()
    wait_until_none_is_left(tmp_path)
    process.communicate()


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path):
    line = f"{WORKER} 0:say=one 0:sleep=0.5 0:say=two 0:sleep=0.3 0:touch=done"
    with subprocess.Popen(
        [*COMMAND, line, "2"], cwd=tmp_path, env=environ(), stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        process.stdout.close()
        assert process.wait(LIMIT) == 0
    assert (tmp_path / "done").exists()
    assert "[rank 0] two" in wait_for(tmp_path, "two")


def test_a_stopped_worker_ends_the_run_with_the_stacks_of_all(tmp_path):
    ended = launch(
        tmp_path, f"*:beat=step-3 1:kill={int(signal.SIGSTOP)} *:sleep=60", 2, MF_STOPPED_SECONDS=1
    )
    assert ended.code == 124
    assert ended.seconds < TEN_SECONDS
    assert "the run stands still; most likely because of rank 1: stopped (SIGSTOP)" in ended.err
    for rank in (0, 1):
        assert f"launch: [rank {rank}]     {WORKER}" in ended.err
    assert "last sign of life" in ended.err
    assert ": step-3" in ended.err


def test_a_run_without_signs_of_life_is_ended_and_the_oldest_sign_named(tmp_path):
    ended = launch(
        tmp_path, "*:beat=step-3 1:sleep=60 0:beat_on=1.5 0:beat=reduce 0:sleep=60", 2,
        MF_HANG_SECONDS=1,
    )  # fmt: skip
    assert ended.code == 124
    assert "most likely because of rank 1" in ended.err
    assert "launch: [rank 0] last sign of life 1 s ago: reduce" in ended.err


def test_processes_without_signs_of_life_are_never_taken_for_hanging(tmp_path):
    assert launch(tmp_path, "*:sleep=2", 2, MF_HANG_SECONDS=0.5).code == 0


def test_zero_switches_the_watch_off(tmp_path):
    assert launch(tmp_path, "*:beat=once *:sleep=2", 2, MF_HANG_SECONDS=0).code == 0


def test_stacks_come_from_scripts_that_know_nothing_of_the_launcher_too(tmp_path):
    ended = launch(tmp_path, f"0:sleep=60 1:kill={int(signal.SIGSTOP)}", 2, MF_STOPPED_SECONDS=0.5)
    assert ended.code == 124
    assert ended.err.count("fake_worker.py:") >= 2


NOT_MET = """
for rank in (0, 2):
    print(f"[W] ProcessRegister] The new node: {rank}(role: MS_WORKER), rank id: {rank}")
sys.exit("RuntimeError: ... because some processes in the cluster are not successfully spawned")
"""


def test_a_cluster_that_is_not_complete_is_told_with_counts(tmp_path):
    ended = launch(
        tmp_path, "*:sleep=60", 4, 8300, "logs", True, 5, FAKE_SCHEDULER=f"time.sleep(1){NOT_MET}"
    )
    assert ended.code == 1
    assert ended.seconds < TEN_SECONDS
    assert "2 of 4 processes met at 127.0.0.1:" in last_line(ended)
    assert "within 5 s; missing: rank 1, 3; look at logs/worker_1.log, or" in last_line(ended)


def test_a_scheduler_that_misses_a_stopped_worker_is_not_to_blame(tmp_path):
    ended = launch(
        tmp_path, f"*:say=hi 1:kill={int(signal.SIGSTOP)} *:sleep=60", 2,
        FAKE_SCHEDULER="time.sleep(2); sys.exit('Timed out node list is: [const vector]{1}')",
    )  # fmt: skip
    assert ended.code == 124
    assert "most likely because of rank 1: stopped" in ended.err


def test_a_scheduler_that_fails_ends_the_run(tmp_path):
    ended = launch(tmp_path, "*:sleep=60", 2, FAKE_SCHEDULER="time.sleep(0.5); sys.exit('no luck')")
    assert ended.code == 1
    assert last_line(ended) == "[scheduler] no luck"


def test_a_directory_of_logs_belongs_to_one_run(tmp_path):
    first = begin(tmp_path, "*:say=ready *:sleep=60", 2)
    wait_for(tmp_path, "[rank 0] ready", "[rank 1] ready")
    second = launch(tmp_path, "*:sleep=1", 2)
    assert second.code == 2
    assert f"another run writes its logs here (launcher: process {first.pid})" in second.err
    assert "ready" in wait_for(tmp_path, "[rank 0] ready")
    first.terminate()
    assert finish(first).code == 143


def test_a_directory_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "output").write_text("a file")
    ended = launch(tmp_path, "*:sleep=1", 2)
    assert ended.code == 2
    assert "error: output/msrun_log: cannot be written to: Not a directory" in ended.err


def test_limits_that_are_no_numbers_are_refused(tmp_path):
    ended = launch(tmp_path, "*:sleep=1", 2, MF_HANG_SECONDS="soon")
    assert ended.code == 2
    assert ended.err == "error: MF_HANG_SECONDS: is 'soon'; allowed: seconds, 0 or more\n"


def test_two_runs_at_once_take_two_ports(tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    runs = [begin(folder, "*:env=MS_SCHED_PORT *:sleep=1", 2, 8400, "output/msrun_log", True, 60)
            for folder in folders]  # fmt: skip
    assert [finish(run).code for run in runs] == [0, 0]
    ports = {
        wait_for(folder, "MS_SCHED_PORT=").split("MS_SCHED_PORT=")[1][:4] for folder in folders
    }
    assert len(ports) == 2


def test_a_run_with_a_hung_up_terminal_goes_on_under_nohup(tmp_path):
    process = subprocess.Popen(
        ["nohup", *COMMAND, f"{WORKER} *:say=ready *:sleep=0.5", "2"], cwd=tmp_path, env=environ(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(tmp_path, "[rank 0] ready")
    os.kill(process.pid, signal.SIGHUP)
    assert finish(process).code == 0


def test_old_logs_are_not_taken_for_new_ones(tmp_path):
    assert launch(tmp_path, "*:say=old", 3).code == 0
    assert launch(tmp_path, "*:say=new", 2).code == 0
    logs = sorted(path.name for path in Path(tmp_path, "output/msrun_log").glob("worker_*"))
    assert logs == ["worker_0.log", "worker_1.log"]
    assert "old" not in wait_for(tmp_path, "[rank 0] new", "[rank 1] new")
