"""Runs of the launcher with ``fake_worker.py``, and a scheduler that is as quick as they are."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORKER = str(ROOT / "tests/support/fake_worker.py")
LIMIT = 40.0  # seconds; far above what anything here takes, also on a busy machine

# Listens like MindSpore's; FAKE_SCHEDULER is Python that it runs then.
_SCHEDULER = """
import os, socket, sys, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((os.environ["MS_SCHED_HOST"], int(os.environ["MS_SCHED_PORT"])))
s.listen()
exec(os.environ.get("FAKE_SCHEDULER", "time.sleep(300)"))
"""
_LAUNCHER = f"""
import sys
from mindformers.cli import launch, launch_workers
from mindformers.guard import run_guarded
launch_workers.SCHEDULER = (sys.executable, "-S", "-c", {_SCHEDULER!r})
sys.exit(run_guarded(launch.main))
"""
COMMAND = [sys.executable, "-c", _LAUNCHER]


@dataclass(frozen=True)
class Ended:
    """What a launcher left: exit code, what it printed, how long it took."""

    code: int
    out: str
    err: str
    seconds: float


def begin(folder: Path, deeds: str, *form: object, **environment: object) -> subprocess.Popen[str]:
    """Start a launcher in a folder; its logs go to ``folder/output/msrun_log``."""
    return subprocess.Popen(
        [*COMMAND, f"{WORKER} {deeds}", *map(str, form)],
        cwd=folder,
        env=environ(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def environ(**changes: object) -> dict[str, str]:
    """Return this process's environment without what a launcher sets, with changes."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MS_", "MF_", "OMP_", "MINDFORMERS_", "RANK_"))
    }
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        **{name: str(value) for name, value in changes.items()},
    }


def finish(process: subprocess.Popen[str], began: float | None = None) -> Ended:
    """Wait for a launcher; one that does not end is killed and fails the test."""
    began = time.monotonic() if began is None else began
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        raise
    return Ended(process.returncode, out, err, time.monotonic() - began)


def launch(folder: Path, deeds: str, *form: object, **environment: object) -> Ended:
    """Run a launcher to its end."""
    began = time.monotonic()
    return finish(begin(folder, deeds, *form, **environment), began)


def log_of(folder: Path, name: str, logs: str = "output/msrun_log") -> str:
    """Return a log, empty while there is none."""
    path = folder / logs / name
    return path.read_text() if path.is_file() else ""


def wait_for(folder: Path, *texts: str, name: str = "all.log") -> str:
    """Wait until a log has all texts."""
    end = time.monotonic() + LIMIT
    while not all(text in log_of(folder, name) for text in texts):
        assert time.monotonic() < end, log_of(folder, name)
        time.sleep(0.02)
    return log_of(folder, name)


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of the processes that work in a folder and have not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            is_here = (entry / "cwd").resolve() == folder.resolve()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            line = shlex.join((entry / "cmdline").read_text().split("\0"))
        except OSError:
            continue
        if is_here and state != "Z":
            found.append(line)
    return found


def wait_until_none_is_left(folder: Path) -> None:
    """Wait until nothing works in a folder any more."""
    end = time.monotonic() + 10
    while left := processes_of(folder):
        assert time.monotonic() < end, left
        time.sleep(0.02)
