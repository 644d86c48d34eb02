"""The processes of a launched run: how they are started, what they say, how they are ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mindformers.parallel.heartbeat import FILE_VARIABLE, last_beat

ALL_LOG = "all.log"
_SCHEDULER = "from mindspore.communication import init; init()"
_PR_SET_PDEATHSIG = 1
# What MindSpore's C++ side writes about itself; it stays in the files.
_NOISE = re.compile(
    rb"^\[(INFO|WARNING|EVENT)\] [A-Z_]+\(|^\[ERROR\] ME\(.*CPU device is not supported"
)


@dataclass(frozen=True)
class Plan:
    """What to start; see ``launch.USAGE``."""

    command: Sequence[str]
    number: int
    local: int
    node: int
    address: str
    port: int
    log_dir: Path
    timeout: int

    def environment(self, rank: int | None) -> dict[str, str]:
        """Return the variables MindSpore's processes find one another by; None: of their meeting point."""
        threads = str(max(1, len(os.sched_getaffinity(0)) // self.local))
        found = {
            "MS_WORKER_NUM": str(self.number), "MS_SCHED_HOST": self.address,
            "MS_SCHED_PORT": str(self.port), "MS_TOPO_TIMEOUT": str(self.timeout),
            "MS_ROLE": "MS_SCHED",
            "OMP_NUM_THREADS": threads, "MINDFORMERS_THREADS": threads, "GLOG_v": "2",
            **os.environ,
        }  # fmt: skip
        found |= {"MS_WORKER_NUM": str(self.number), "MS_SCHED_HOST": self.address,
                  "MS_SCHED_PORT": str(self.port), "MS_ROLE": "MS_SCHED"}  # fmt: skip
        if rank is not None:
            found |= {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(rank), "RANK_ID": str(rank),
                      "RANK_SIZE": str(self.number), "DEVICE_ID": str(rank % self.local),
                      FILE_VARIABLE: str(beat_file(self.log_dir, rank).resolve())}  # fmt: skip
        return found


def beat_file(log_dir: Path, rank: int) -> Path:
    """Return where a process leaves its signs of life."""
    return log_dir / f".beat_{rank}"


class Worker:
    """One process.

    Args:
        name: ``worker_0`` ... or ``scheduler``.
        rank: Its rank; None: the scheduler.
        command: What to run.
        plan: The run.
    """

    def __init__(self, name: str, rank: int | None, command: Sequence[str], plan: Plan):
        self.name, self.rank = name, rank
        self.log = plan.log_dir / f"{name}.log"
        self.beat = beat_file(plan.log_dir, rank) if rank is not None else None
        if self.beat is not None:
            self.beat.unlink(missing_ok=True)
        self.ended_at = float("inf")
        self.process = subprocess.Popen(
            list(command), env=plan.environment(rank), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=_die_with_parent,
        )  # fmt: skip

    def signal(self, number: int) -> None:
        """Send a signal to the process and everything it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def is_stopped(self) -> bool:
        """Tell whether somebody stopped the process (SIGSTOP)."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] == "T"

    def last_sign(self) -> tuple[float, str] | None:
        """Return (seconds since, what) of its last sign of life, or None."""
        return last_beat(self.beat) if self.beat is not None else None


def _die_with_parent() -> None:
    """Be killed when the launcher dies, however it dies (Linux)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_LIBC = ctypes.CDLL(None)


class Team:
    """All processes of this machine; a context manager that leaves none behind.

    Args:
        plan: What to start.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        plan.log_dir.mkdir(parents=True, exist_ok=True)
        self._all = (plan.log_dir / ALL_LOG).open("wb")
        self._lock = threading.Lock()
        self._pumps: list[threading.Thread] = []
        self.workers: list[Worker] = []
        self.scheduler: Worker | None = None

    def __enter__(self) -> Team:
        try:
            if self.plan.node == 0:
                command = [sys.executable, "-c", _SCHEDULER]
                self.scheduler = self._start("scheduler", None, command)
            first = self.plan.node * self.plan.local
            for rank in range(first, first + self.plan.local):
                self.workers.append(self._start(f"worker_{rank}", rank, self.plan.command))
        except BaseException:
            self.stop(grace=0)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(grace=0)
        self._all.close()

    def _start(self, name: str, rank: int | None, command: Sequence[str]) -> Worker:
        worker = Worker(name, rank, command, self.plan)
        pump = threading.Thread(target=self._pump, args=(worker,), daemon=True)
        pump.start()
        self._pumps.append(pump)
        return worker

    def _pump(self, worker: Worker) -> None:
        """Copy what a process says into its file, the common one and, of the first process, the terminal."""
        source: BinaryIO = worker.process.stdout  # type: ignore[assignment]
        prefix = f"[rank {worker.rank}] ".encode()
        is_shown = worker.rank is not None and worker.rank % self.plan.local == 0
        with worker.log.open("wb", buffering=0) as log:
            for line in source:
                log.write(line)
                if worker.rank is None or _NOISE.match(line):
                    continue
                with self._lock, contextlib.suppress(OSError, ValueError):
                    self._all.write(prefix + line)
                    self._all.flush()
                    if is_shown:
                        sys.stdout.buffer.write(line)
                        sys.stdout.buffer.flush()
        worker.ended_at = time.monotonic()

    def everyone(self) -> Iterator[Worker]:
        """Yield the workers and the scheduler."""
        yield from self.workers
        if self.scheduler is not None:
            yield self.scheduler

    def stop(self, grace: float) -> None:
        """End all processes: ask twice, a second apart, and after ``grace`` seconds kill what is left.

        The second request ends a run at once that waits for one that is gone.
        """
        for number, pause in ((signal.SIGTERM, min(1.0, grace)), (signal.SIGTERM, grace - 1.0)):
            if grace > 0:
                for worker in self.everyone():
                    worker.signal(number)
                self.wait(max(0.0, pause))
        for worker in self.everyone():  # also what an ended process may have left behind
            worker.signal(signal.SIGKILL)
            worker.process.wait()
        for pump in self._pumps:
            pump.join(timeout=2)

    def wait(self, seconds: float) -> bool:
        """Wait until every worker has ended; return whether they have."""
        end = time.monotonic() + seconds
        while any(worker.process.poll() is None for worker in self.workers):
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        return True


def meaningful_lines(log: Path, count: int = 20) -> list[str]:
    """Return the last lines of a log that are the program's own."""
    lines = log.read_bytes().splitlines() if log.is_file() else []
    kept = [line for line in lines if line.strip() and not _NOISE.match(line)]
    return [line.decode("utf-8", "replace") for line in kept[-count:]]
