"""The launcher from outside, with processes that do not need MindSpore, and once with ones that do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.launching import (
    COMMAND,
    LIMIT,
    ROOT,
    WORKER,
    begin,
    environ,
    finish,
    launch,
    log_of,
    wait_for,
    wait_until_none_is_left,
)

SCRIPT = ["bash", str(ROOT / "scripts/msrun_launcher.sh")]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a launcher needs Linux")


def script(
    folder: Path, *arguments: str, **environment: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SCRIPT, *arguments], cwd=folder, env=environ(**environment), capture_output=True,
        text=True, timeout=LIMIT,
    )  # fmt: skip


def test_all_lines_are_in_one_file_and_those_of_the_first_process_are_shown(tmp_path):
    ended = launch(tmp_path, "*:say=hello 1:say=world", 2)
    assert (ended.code, ended.out) == (0, "hello\n")
    assert sorted(log_of(tmp_path, "all.log").splitlines()) == [
        "[rank 0] hello", "[rank 1] hello", "[rank 1] world",
    ]  # fmt: skip
    assert log_of(tmp_path, "worker_1.log") == "hello\nworld\n"
    assert "all of them: tail -f output/msrun_log/all.log" in ended.err
    assert ended.err.splitlines()[-1].startswith("launch: finished after ")


def test_processes_find_one_another_as_those_of_msrun_do(tmp_path):
    names = ["MS_ROLE", "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_TOPO_TIMEOUT", "MS_NODE_ID",
             "RANK_ID", "RANK_SIZE", "DEVICE_ID"]  # fmt: skip
    deeds = " ".join(f"*:env={name}" for name in names)
    assert launch(tmp_path, deeds, 2, 8500, "logs", True, 77).code == 0
    said = dict(line.split("=") for line in log_of(tmp_path, "worker_1.log", "logs").splitlines())
    assert said == {
        "MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2", "MS_SCHED_HOST": "127.0.0.1",
        "MS_TOPO_TIMEOUT": "77", "MS_NODE_ID": "1", "RANK_ID": "1", "RANK_SIZE": "2",
        "DEVICE_ID": "1",
    }  # fmt: skip


def test_the_cpus_are_shared_unless_the_user_says_otherwise(tmp_path):
    cpus = len(os.sched_getaffinity(0))
    deeds = "0:env=OMP_NUM_THREADS 0:env=MINDFORMERS_THREADS"
    said = launch(tmp_path, deeds, 2, OMP_NUM_THREADS=5).out
    assert said == f"OMP_NUM_THREADS=5\nMINDFORMERS_THREADS={max(1, cpus // 2)}\n"


def test_one_process_is_the_script_itself(tmp_path):
    ended = launch(tmp_path, "*:say=alone *:env=MS_ROLE *:env=MS_WORKER_NUM *:exit=7", 1)
    assert (ended.code, ended.err) == (7, "")
    assert ended.out == "alone\nMS_ROLE=None\nMS_WORKER_NUM=1\n"
    assert not (tmp_path / "output").exists()


def test_a_run_in_the_background_says_how_to_follow_and_stop_it(tmp_path):
    ended = launch(
        tmp_path, "*:save_on_signal=143 *:say=ready *:sleep=60", 2, 8600, "logs", False, 60
    )
    assert ended.code == 0
    number = int(ended.err.split("to stop it, saving: kill ")[1])
    assert "tail -f logs/all.log" in ended.err
    end = time.monotonic() + LIMIT
    while log_of(tmp_path, "all.log", "logs").count("ready") < 2 and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(number, signal.SIGTERM)
    wait_until_none_is_left(tmp_path)
    assert "stopped by SIGTERM" in log_of(tmp_path, "launcher.log", "logs")
    assert log_of(tmp_path, "all.log", "logs").count("saved") == 2


def test_one_process_can_run_in_the_background_too(tmp_path):
    ended = launch(tmp_path, "*:say=alone", 1, 8118, "logs", "False", 60)
    assert ended.code == 0
    wait_until_none_is_left(tmp_path)
    assert log_of(tmp_path, "all.log", "logs") == "[rank 0] alone\n"
    assert "launch: finished after" in log_of(tmp_path, "launcher.log", "logs")


def test_a_background_run_that_cannot_start_says_so(tmp_path):
    first = begin(tmp_path, "*:say=ready *:sleep=60", 2)
    wait_for(tmp_path, "[rank 0] ready")
    ended = launch(tmp_path, "*:say=no", 2, 8118, "output/msrun_log", False, 60)
    assert ended.code == 2
    assert "another run writes its logs here" in ended.err
    first.terminate()
    assert finish(first).code == 143


def test_the_script_explains_itself_and_refuses_with_code_2(tmp_path):
    done = script(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: bash scripts/msrun_launcher.sh")
    done = script(tmp_path, "a.py", "2", "8118")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")
    assert "3 arguments; allowed: 1, 2, 6 or 9" in done.stderr.splitlines()[-1]


def test_the_script_exports_what_the_published_one_does(tmp_path):
    line = f"{WORKER} *:env=PYTHONPATH *:env=LOG_MF_PATH"
    said = script(tmp_path, line, "1", PYTHONPATH="/mine", MF_LOG_SUFFIX="x").stdout
    assert said == f"PYTHONPATH={ROOT}:/mine\nLOG_MF_PATH={tmp_path}/output/log_x\n"


ALL_REDUCE = """
import numpy as np
import mindspore as ms
from mindspore import Tensor, communication, ops
ms.set_device("CPU")
communication.init()
rank = communication.get_rank()
print(rank, ops.AllReduce()(Tensor(np.array([rank + 1.0], np.float32))).asnumpy().tolist())
"""


def test_real_processes_find_one_another(tmp_path):
    (tmp_path / "all_reduce.py").write_text(ALL_REDUCE)
    done = subprocess.run(
        [*SCRIPT, "\n  all_reduce.py  \n", "2"], cwd=tmp_path, env=environ(), capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0 [3.0]\n"
    assert log_of(tmp_path, "all.log").splitlines().count("[rank 1] 1 [3.0]") == 1
    assert "[WARNING] DISTRIBUTED" in log_of(tmp_path, "worker_0.log")
    wait_until_none_is_left(tmp_path)


# Two machines: network namespaces with a cable between them, made inside namespaces of our own.
MACHINES = """
set -e
mount -t tmpfs none /run
ip netns add one && ip netns add two
ip link add va netns one type veth peer name vb netns two
ip -n one addr add 10.9.0.1/24 dev va && ip -n one link set va up && ip -n one link set lo up
ip -n two addr add 10.9.0.2/24 dev vb && ip -n two link set vb up && ip -n two link set lo up
[ $# -gt 0 ] || exit 0
set +e
ip netns exec one "$@" 4 2 10.9.0.1 8700 0 logs True 60 > one.out 2>&1 & first=$!
ip netns exec two "$@" 4 2 10.9.0.1 8700 1 logs True 60 > two.out 2>&1 & second=$!
wait $first; echo $?
wait $second; echo $?
"""


def two_machines(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "-Urnmpf", "--kill-child", "--mount-proc", "bash", "-c", MACHINES, "machines", *command],
        cwd=folder,
        env=environ(), capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip


def test_two_machines_share_a_run(tmp_path):
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare and ip are not installed")
    tried = two_machines(tmp_path)
    if tried.returncode:
        pytest.skip(f"no network namespaces: {tried.stderr.strip()[-200:]}")
    done = two_machines(tmp_path, *COMMAND, f"{WORKER} *:env=RANK_ID *:env=MS_SCHED_HOST 0:sleep=1")
    assert done.stdout.split() == ["0", "0"], (tmp_path / "one.out").read_text()
    assert "RANK_ID=0\n" in (tmp_path / "one.out").read_text()
    assert "RANK_ID=2\n" in (tmp_path / "two.out").read_text()
    assert (
        "2 processes of 4 (ranks 2 to 3, machine 1), meeting at 10.9.0.1:8700"
        in (tmp_path / "two.out").read_text()
    )
    assert "[rank 3] RANK_ID=3" in log_of(tmp_path, "all_node1.log", "logs")
    assert log_of(tmp_path, "worker_3.log", "logs").endswith("MS_SCHED_HOST=10.9.0.1\n")
    assert (tmp_path / "logs/scheduler.log").is_file()
