"""The processes of a launched run on this machine: how they are started, looked at and ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mindformers.cli.launch_guardian import Guardian, dying_with
from mindformers.cli.launch_logs import Collection, Follower, Sink
from mindformers.cli.launch_port import listens
from mindformers.machine import usable_cpus
from mindformers.parallel.heartbeat import FILE_VARIABLE
from mindformers.parallel.runtime import LOCAL_SIZE

# A process of its own, not the script once more as msrun has it: nothing of the script is done twice.
SCHEDULER = (sys.executable, "-c", "from mindspore.communication import init; init()")
_MET = re.compile(r"The new node: (\d+)\(role: MS_WORKER\)")  # meta_server_node.cc, ProcessRegister
_OPEN_SECONDS = 30.0  # a scheduler that does not listen by then is not waited for
_PAUSE = 0.02  # seconds between two looks at processes that are ending


@dataclass(frozen=True)
class Plan:
    """What to start; ``launch_request.USAGE`` explains the fields."""

    command: Sequence[str]
    number: int
    local: int
    node: int
    address: str
    port: int
    log_dir: Path
    timeout: int

    @property
    def ranks(self) -> range:
        """The ranks of this machine."""
        return range(self.node * self.local, (self.node + 1) * self.local)

    @property
    def has_scheduler(self) -> bool:
        """Whether the process that the others meet at is started here."""
        return self.number > 1 and self.node == 0

    def environment(self, rank: int | None) -> dict[str, str]:
        """Return the variables MindSpore's processes find one another by; None: of their meeting point."""
        threads = str(max(1, usable_cpus() // self.local))
        found = {"OMP_NUM_THREADS": threads, "MINDFORMERS_THREADS": threads, **os.environ}
        # Lines appear when they are printed; a crash in C++ shows the Python line that led to it.
        found |= {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
        found |= {"MS_WORKER_NUM": str(self.number), "RANK_SIZE": str(self.number)}
        if self.number > 1:
            found |= {
                "MS_SCHED_HOST": self.address, "MS_SCHED_PORT": str(self.port),
                "MS_TOPO_TIMEOUT": str(self.timeout),
                "MS_ROLE": "MS_SCHED" if rank is None else "MS_WORKER",
            }  # fmt: skip
        found |= {"RANK_ID": str(rank or 0), LOCAL_SIZE: str(self.local)}
        found.pop("MS_NODE_ID", None)
        if rank is not None:
            found |= {"MS_NODE_ID": str(rank), "DEVICE_ID": str(rank % self.local),
                      FILE_VARIABLE: str(beat_file(self.log_dir, rank).resolve())}  # fmt: skip
        return found


def beat_file(log_dir: Path, rank: int) -> Path:
    """Return where a process leaves its signs of life."""
    return log_dir / f".beat_{rank}"


class Worker:
    """One process, started at once with its output going to its log.

    Args:
        rank: Its rank; None: the scheduler.
        command: What to run.
        plan: The run.
        guardian: Is told of its process group.
    """

    def __init__(
        self, rank: int | None, command: Sequence[str], plan: Plan, guardian: Guardian
    ) -> None:
        self.rank, self._guardian = rank, guardian
        self.name = "scheduler" if rank is None else f"rank {rank}"
        self.log = plan.log_dir / ("scheduler.log" if rank is None else f"worker_{rank}.log")
        self.log.write_bytes(b"")
        self.beat = beat_file(plan.log_dir, rank or 0)
        if rank is not None:
            self.beat.unlink(missing_ok=True)
        self.ended_at = float("inf")
        with self.log.open("ab") as log:  # appending: a log that is emptied does not get a hole
            self.process = subprocess.Popen(
                list(command), env=plan.environment(rank), stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=dying_with(os.getpid()),
            )  # fmt: skip
        guardian.add(self.process.pid)

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal that killed it), or None while it runs.

        With the process ends what it had started.
        """
        process = self.process
        if process.returncode is None:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if os.waitid(os.P_PID, process.pid, options) is not None:
                self.ended_at = time.monotonic()
                self.signal(signal.SIGKILL)  # before wait(): until then nobody else gets the number
                self._guardian.forget(process.pid)
                process.wait()
        return process.returncode

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.poll() is None

    def signal(self, number: int, *, is_alone: bool = False) -> None:
        """Send a signal to the process and, unless ``is_alone``, to everything it started."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                (os.kill if is_alone else os.killpg)(self.process.pid, number)

    def is_stopped(self) -> bool:
        """Tell whether somebody stopped the process (SIGSTOP)."""
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
            return stat.rpartition(")")[2].split()[0] == "T"
        return False

    def catches(self, number: int) -> bool:
        """Tell whether the process has a handler for a signal."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            if found := re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.M):
                return bool(int(found[1], 16) >> (number - 1) & 1)
        return False


class Team:
    """All processes of this machine; a context manager that leaves none behind.

    Args:
        plan: What to start; LOG_DIR exists. Nothing is started yet when the context is entered.
        terminal: Gets the lines of the first process.
        collection: Gets the lines of all.
    """

    def __init__(self, plan: Plan, terminal: Sink, collection: Collection) -> None:
        self.plan, self.began = plan, time.monotonic()
        self.workers: list[Worker] = []
        self.scheduler: Worker | None = None
        self._followers: list[Follower] = []
        self._terminal, self._collection = terminal, collection
        self._guardian: Guardian | None = None

    def __enter__(self) -> Team:
        self._guardian = Guardian()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        if self._guardian is not None:
            self._guardian.close()
        self.show(is_final=True)
        for follower in self._followers:
            follower.close()

    def start_scheduler(self) -> None:
        """Start the process that the others meet at, when it belongs on this machine."""
        if self.plan.has_scheduler:
            self.scheduler = self._start(None, SCHEDULER)

    def is_open(self) -> bool:
        """Whether workers may be started: those that come before the scheduler listens lose up to 30 s."""
        scheduler, port = self.scheduler, self.plan.port
        if scheduler is None or not scheduler.is_running or listens(port):
            return True
        return time.monotonic() - self.began > _OPEN_SECONDS

    def start_workers(self) -> None:
        """Start the processes that do the work."""
        for rank in self.plan.ranks:
            self.workers.append(self._start(rank, self.plan.command))

    def _start(self, rank: int | None, command: Sequence[str]) -> Worker:
        assert self._guardian is not None
        worker = Worker(rank, command, self.plan, self._guardian)
        sinks = [self._collection.sink(f"[{worker.name}] ")]
        if rank == self.plan.ranks[0]:
            sinks.append(self._terminal)
        self._followers.append(Follower(worker.log, sinks))
        return worker

    def show(self, *, is_final: bool = False) -> None:
        """Pass on what the processes have said since the last time."""
        for follower in self._followers:
            follower.poll(is_final=is_final)

    def everyone(self) -> Iterator[Worker]:
        """Yield the workers and the scheduler."""
        yield from self.workers
        if self.scheduler is not None:
            yield self.scheduler

    def running(self) -> list[Worker]:
        """Return the workers that have not ended."""
        return [worker for worker in self.workers if worker.is_running]

    def met(self) -> set[int]:
        """Return the ranks that have come to the scheduler's meeting point, as its log has it."""
        if self.scheduler is None:
            return set()
        text = self.scheduler.log.read_text("utf-8", "replace")
        return {int(rank) for rank in _MET.findall(text)}

    def stop(self, grace: float) -> None:
        """End all processes: ask twice, a second apart, and after ``grace`` seconds kill what is left.

        The second request ends a run at once that waits for one that is gone.
        """
        for pause in (min(1.0, grace), max(0.0, grace - 1.0)):
            for worker in self.workers:
                worker.signal(signal.SIGTERM)
            if self.wait(pause):
                break
        self.kill()

    def kill(self) -> None:
        """End what is left, at once."""
        for worker in self.everyone():
            worker.signal(signal.SIGKILL)  # also ends one that was stopped
        while any(worker.is_running for worker in self.everyone()):
            time.sleep(_PAUSE)

    def wait(self, seconds: float) -> bool:
        """Wait until every worker has ended; return whether they have."""
        end = time.monotonic() + seconds
        while self.running():
            if time.monotonic() >= end:
                return False
            self.show()
            time.sleep(_PAUSE)
        return True
