"""A run that stands still: how it is noticed, and what is told about it before it is ended."""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from mindformers.cli.launch_logs import shown
from mindformers.cli.launch_workers import Team, Worker
from mindformers.parallel.heartbeat import read_beat

_DUMP_SECONDS = 2.0
_BREAK = 5.0  # seconds between two looks after which the launcher itself must have been stopped
_FRAMES = 12  # of one thread
_FRAME = re.compile(r'  File "(.+)", line (\d+) in (.+)')
_THREAD = re.compile(r"(Current thread|Thread) 0x[0-9a-f]+")
# Frames of Python and of other packages say how something waits, not what for.
_FOREIGN = re.compile(
    r"/lib/python3\.\d+/(?!site-packages/)|/site-packages/(?!mindformers/)|^<frozen "
)


@dataclass
class _Sign:
    """The last sign of life of a process as the launcher's own clock saw it."""

    number: int
    phase: str
    seen: float


class Vigil:
    """Notices a run that stands still.

    The signs are timed here, so a clock that is set and a machine that slept change nothing.

    Args:
        team: The processes.
        hang: Seconds without a sign of any of them; 0: never a standstill. Counted from the first sign on.
        stopped: Seconds that one of them may be stopped; 0: for ever.
    """

    def __init__(self, team: Team, hang: float, stopped: float) -> None:
        self._team, self._hang, self._stopped = team, hang, stopped
        self._signs: dict[Worker, _Sign] = {}
        self._stopped_since: dict[Worker, float] = {}
        self._looked = time.monotonic()

    def culprit(self) -> Worker | None:
        """Return the process that the run most likely waits for, or None while it goes on."""
        now = time.monotonic()
        if (pause := now - self._looked) > _BREAK:
            for each in self._signs.values():
                each.seen += pause
            self._stopped_since.clear()
        self._looked = now
        running = self._team.running()
        for worker in running:
            self._read(worker, now)
            if worker.is_stopped():
                self._stopped_since.setdefault(worker, now)
            else:
                self._stopped_since.pop(worker, None)
        for worker in running:
            if 0 < self._stopped < now - self._stopped_since.get(worker, now):
                return worker
        signs = [(sign.seen, worker) for worker in running if (sign := self._signs.get(worker))]
        if not signs or self._hang == 0 or now - max(seen for seen, _ in signs) <= self._hang:
            return None
        return min(signs, key=lambda each: each[0])[1]

    def stopped(self) -> Worker | None:
        """Return a process that is stopped, for however long."""
        return next((worker for worker in self._stopped_since if worker.is_stopped()), None)

    def _read(self, worker: Worker, now: float) -> None:
        beat = read_beat(worker.beat)
        known = self._signs.get(worker)
        if beat is not None and (known is None or known.number != beat[0]):
            self._signs[worker] = _Sign(beat[0], beat[1], now)

    def last_words(self, worker: Worker) -> str:
        """Return what a process did last, and how long ago that was."""
        sign = self._signs.get(worker)
        state = "stopped (SIGSTOP); " if worker in self._stopped_since else ""
        if not worker.is_running:
            return "has ended"
        if sign is None:
            return f"{state}has given no sign of life yet"
        age = time.monotonic() - sign.seen
        return f"{state}last sign of life {age:.0f} s ago: {sign.phase or 'alive'}"


def report(team: Team, vigil: Vigil, culprit: Worker) -> list[str]:
    """Ask every process for its stack and return the lines that tell what each of them does."""
    words = {worker: vigil.last_words(worker) for worker in team.workers}
    sizes = {worker: worker.log.stat().st_size for worker in team.workers}
    for worker in team.running():
        if worker.catches(signal.SIGUSR1):
            worker.signal(signal.SIGUSR1, is_alone=True)
        elif worker.catches(signal.SIGABRT):  # PYTHONFAULTHANDLER: prints the stack and ends
            worker.signal(signal.SIGABRT, is_alone=True)
        worker.signal(signal.SIGCONT, is_alone=True)
    time.sleep(_DUMP_SECONDS)
    lines = [f"the run stands still; most likely because of {culprit.name}: {words[culprit]}"]
    for worker in team.workers:
        lines.append(f"[{worker.name}] {words[worker]}")
        with worker.log.open("rb") as log:
            log.seek(sizes[worker])
            said = log.read().decode("utf-8", "replace").splitlines()
        lines += [f"[{worker.name}] {line}" for line in _stacks(said)]
    return lines


def _stacks(said: list[str]) -> list[str]:
    """Return the threads of one process, innermost frame first; those with our frames or the user's."""
    threads: list[list[str]] = []
    for line in said:
        if _THREAD.match(line):
            threads.append([])
        elif threads and (frame := _FRAME.match(line)):
            threads[-1].append(f"{frame[1]}:{frame[2]} in {frame[3]}")
    own = [
        kept
        for frames in threads
        if (kept := [frame for frame in frames if not _FOREIGN.search(frame)])
    ]
    chosen = own or threads
    lines: list[str] = []
    for number, frames in enumerate(chosen, 1):
        if len(chosen) > 1:
            lines.append(f"  thread {number} of {len(chosen)}")
        lines += [f"    {shown(_short(frame))}" for frame in frames[:_FRAMES]]
    return lines


def _short(frame: str) -> str:
    """Return a frame with its path as seen from here."""
    return frame.removeprefix(f"{Path.cwd()}/")
