"""Watching a launched run: the end, a failure, a wish to stop, a standstill."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

from mindformers.cli.launch_workers import Team, Worker, meaningful_lines
from mindformers.errors import ConfigError

EXIT_HANG = 124  # as timeout(1)
_STOP_GRACE = 5.0  # seconds the others have when one has failed
_TICK = 0.1


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if value < 0:
        raise ConfigError(f"is {text!r}", where=name, allowed="seconds, 0 or more")
    return value


class _Wish:
    """The first signal that asked the launcher to stop."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.since = 0.0
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with suppress(ValueError):  # not the main thread
                signal.signal(each, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number is None:
            self.number, self.since = number, time.monotonic()


def watch(team: Team) -> int:
    """See a run through and return its exit code.

    0 when every process ended well; else that of the first process that failed (128 + the signal that killed
    it), 124 after a standstill, 128 + the signal that stopped the launcher.
    """
    hang, stopped = _seconds("MF_HANG_SECONDS", 600), _seconds("MF_STOPPED_SECONDS", 30)
    patience, wish = _seconds("MF_STOP_SECONDS", 60), _Wish()
    has_forwarded = False
    stopped_since: dict[str, float] = {}
    while True:
        time.sleep(_TICK)
        codes = {worker: worker.process.poll() for worker in team.workers}
        if wish.number is not None and not has_forwarded:
            has_forwarded = True
            _say(
                f"{signal.Signals(wish.number).name}: the processes may save and stop ({patience:g} s)"
            )
            for worker in team.workers:
                worker.signal(signal.SIGTERM)
        failed = [worker for worker, code in codes.items() if code not in (None, 0)]
        if failed and not has_forwarded:
            return _fail(team)
        if all(code is not None for code in codes.values()):
            return _end(team, wish.number)
        if has_forwarded and time.monotonic() - wish.since > patience:
            _say(f"the processes did not stop within {patience:g} s and are ended")
            team.stop(grace=0)
            return 128 + int(wish.number or 0)
        culprit = _standstill(team, hang, stopped, stopped_since)
        if culprit:
            return _report_standstill(team, culprit)


def _end(team: Team, wish: int | None) -> int:
    """Return the code of a run whose processes have all ended."""
    codes = [worker.process.returncode for worker in team.workers]
    if wish is not None:
        return 128 + wish
    bad = [code for code in codes if code]
    return _as_exit_code(bad[0]) if bad else 0


def _as_exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code


def _fail(team: Team) -> int:
    """Stop everybody, and print last what the first process that failed said."""
    time.sleep(2 * _TICK)  # those that failed together with it are known now, with their times
    failed = [worker for worker in team.workers if worker.process.poll() not in (None, 0)]
    first = min(failed, key=lambda worker: worker.ended_at)
    code = first.process.returncode
    team.stop(_STOP_GRACE)
    reason = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
    others = len(team.workers) - len(failed)
    _say(f"rank {first.rank} failed ({reason}); the {others} other processes here were stopped. "
         f"The end of {first.log}:")  # fmt: skip
    for line in meaningful_lines(first.log):
        print(f"[rank {first.rank}] {line}", file=sys.stderr)
    sys.stderr.flush()
    return _as_exit_code(code)


def _standstill(
    team: Team, hang: float, stopped: float, stopped_since: dict[str, float]
) -> Worker | None:
    """Return the process that a run most likely waits for, or None while it goes on."""
    now = time.monotonic()
    signs: list[tuple[float, Worker]] = []
    for worker in team.workers:
        if worker.process.poll() is not None:
            continue
        if not worker.is_stopped():
            stopped_since.pop(worker.name, None)
        elif now - stopped_since.setdefault(worker.name, now) > stopped > 0:
            return worker
        sign = worker.last_sign()
        if sign is not None:
            signs.append((sign[0], worker))
    if not signs or hang == 0 or min(age for age, _ in signs) <= hang:
        return None
    return max(signs, key=lambda each: each[0])[1]


def _report_standstill(team: Team, culprit: Worker) -> int:
    """Print every process's stack and end them all."""
    before = {worker.name: worker.log.stat().st_size for worker in team.workers}
    for worker in team.workers:
        worker.signal(signal.SIGUSR1)
    time.sleep(2)
    state = "was stopped (SIGSTOP)" if culprit.is_stopped() else "gives no sign of life any more"
    _say(f"the run stands still; rank {culprit.rank} {state}")
    for worker in team.workers:
        age, phase = worker.last_sign() or (0.0, "it has not begun")
        print(f"[rank {worker.rank}] last sign {age:.0f} s ago: {phase}", file=sys.stderr)
        with worker.log.open("rb") as log:
            log.seek(before[worker.name])
            stack = log.read().decode("utf-8", "replace").splitlines()
        for line in [each for each in stack if each.lstrip().startswith("File")][:20]:
            print(f"[rank {worker.rank}] {line}", file=sys.stderr)
    sys.stderr.flush()
    for worker in team.everyone():
        worker.signal(signal.SIGCONT)
    team.stop(grace=0)
    return EXIT_HANG


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
