"""Seeing a launched run through: its end, a failure, a wish to stop, a standstill."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from types import FrameType

from mindformers.cli.launch_hang import Vigil, report
from mindformers.cli.launch_logs import last_lines
from mindformers.cli.launch_workers import Team, Worker
from mindformers.errors import ConfigError

EXIT_HANG = 124  # as timeout(1)
_TICK = 0.05
_LOOK = 0.5  # seconds between two looks for a standstill
_STOP_GRACE = 5.0  # seconds the others have when one has failed
_SCHEDULER_GRACE = 5.0  # seconds the scheduler has to end after the last worker
_SAVED = (0, 128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
_LOST = re.compile(r"Timed out node list is: \[const vector\]\{([\d, ]+)\}")  # meta_server_node.cc
_NOT_MET = "some processes in the cluster are not successfully spawned"  # cluster/init.cc


def say(text: str) -> None:
    """Print a line of the launcher's own; a reader that has gone does not end the run."""
    try:
        print(f"launch: {text}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


class Limits:
    """Seconds that a run may take for something, as the environment has them."""

    def __init__(self) -> None:
        self.hang = _seconds("MF_HANG_SECONDS", 600)
        self.stopped = _seconds("MF_STOPPED_SECONDS", 30)
        self.stop = _seconds("MF_STOP_SECONDS", 60)


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"is {text!r}", where=name, allowed="seconds, 0 or more")
    return value


class Wish:
    """The signals that ask the launcher to stop; made before the processes are."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.is_urgent = False
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup ignores SIGHUP; a shell ignores SIGINT for what it runs in the background, and we do not
            if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN:
                signal.signal(each, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number is None:
            self.number = number
        else:
            self.is_urgent = True


def watch(team: Team, limits: Limits, wish: Wish) -> int:
    """See a run through and return its exit code.

    0 when every process ended well; else that of the first process that failed (128 + the signal that killed
    it), 124 after a standstill, 128 + the signal that stopped the launcher.
    """
    vigil, looked = Vigil(team, limits.hang, limits.stopped), time.monotonic()
    while True:
        time.sleep(_TICK)
        codes = {worker: worker.poll() for worker in team.everyone()}
        team.show()
        if wish.number is not None:
            return _stop(team, limits.stop, wish)
        failed = [worker for worker, code in codes.items() if code not in (None, 0)]
        if failed:
            # The scheduler misses a process that is stopped after half a minute, and ends with an error.
            stopped = vigil.stopped() if failed == [team.scheduler] else None
            return _stand_still(team, vigil, stopped) if stopped else _fail(team)
        if all(codes[worker] is not None for worker in team.workers):
            return _end(team, limits, wish)
        if time.monotonic() - looked >= _LOOK:
            looked = time.monotonic()
            culprit = vigil.culprit()
            if culprit is not None:
                return _stand_still(team, vigil, culprit)


def _end(team: Team, limits: Limits, wish: Wish) -> int:
    """All went well here; the scheduler stays for the workers of other machines."""
    is_alone = team.plan.local == team.plan.number
    patience = _SCHEDULER_GRACE if is_alone else max(limits.stop, _SCHEDULER_GRACE)
    if not team.met():
        patience = 0.0  # the script never looked for the others: the scheduler waits in vain
    end = time.monotonic() + patience
    while time.monotonic() < end and wish.number is None:
        if team.scheduler is None or not team.scheduler.is_running:
            break
        time.sleep(_TICK)
    team.kill()
    team.show(is_final=True)
    say(f"finished{_here(team)} after {_duration(team)}")
    return 0


def _stop(team: Team, patience: float, wish: Wish) -> int:
    """Hand a wish to stop on, wait for the processes to save, and end what has not ended then."""
    number = int(wish.number or signal.SIGTERM)
    say(f"{signal.Signals(number).name}: the processes may finish their step and save, {patience:g} s; "
        "once more ends them at once")  # fmt: skip
    for worker in team.workers:
        # To the process alone: what it has started is still needed for the step under way.
        worker.signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM, is_alone=True)
    end = time.monotonic() + patience
    while not team.wait(0.1) and time.monotonic() < end and not wish.is_urgent:
        pass
    late = team.running()
    bad = [worker for worker in team.workers if worker.poll() not in (None, *_SAVED)]
    team.kill()
    team.show(is_final=True)
    if late:
        names = ", ".join(worker.name for worker in late)
        say(f"{names} did not end in time and had to be killed")
    for worker in bad[:1]:
        say(f"{worker.name} failed while it stopped ({_reason(worker)}); the end of {worker.log}:")
        _print_end(worker)
    say(f"stopped by {signal.Signals(number).name} after {_duration(team)}")
    return 128 + number


def _fail(team: Team) -> int:
    """Stop everybody, and print last what the first process that failed said."""
    time.sleep(4 * _TICK)  # those that failed together with it are known now
    failed = [worker for worker in team.everyone() if worker.poll() not in (None, 0)]
    first = min(failed, key=lambda worker: worker.ended_at)
    missing = _missing(team, first) or _lost(team, first)
    others = [worker for worker in team.running() if worker is not first]
    if others:
        say(f"{first.name} has failed; stopping the {len(others)} other processes{_here(team)}")
    team.stop(_STOP_GRACE)
    team.show(is_final=True)
    say(f"{first.name} failed after {_duration(team)}: {_reason(first)}; log: {first.log}")
    if missing:
        say(missing)
    else:
        _print_end(first)
    code = int(first.process.returncode)
    return code if code > 0 else 128 - code


def _missing(team: Team, first: Worker) -> str:
    """Return who did not come, when that is why a process failed."""
    text = "\n".join(last_lines(first.log))
    if _NOT_MET not in text:
        return ""
    plan = team.plan
    if not plan.has_scheduler:
        return (
            f"not all {plan.number} processes met at {plan.address}:{plan.port} within {plan.timeout} s; "
            "are all machines started, with the same NUMBER, ADDRESS and PORT, and is the port open?"
        )
    met = team.met()
    absent = [rank for rank in range(plan.number) if rank not in met]
    if not absent:
        return ""
    is_here = absent[0] in plan.ranks
    names = ", ".join(map(str, absent[:20])) + (" ..." if len(absent) > 20 else "")
    return (
        f"{len(met)} of {plan.number} processes met at {plan.address}:{plan.port} within "
        f"{plan.timeout} s; missing: rank {names}; look at {plan.log_dir}/worker_{absent[0]}.log"
        f"{'' if is_here else ' on its machine'}, or give a longer TIMEOUT"
    )


def _lost(team: Team, first: Worker) -> str:
    """Return who went away, when the first to fail here only noticed that somebody was gone."""
    found = _LOST.search("\n".join(last_lines(first.log))) if first is team.scheduler else None
    if found is not None:
        return (
            f"rank {found[1]} does not answer any more; see its log, or the launcher on its machine"
        )
    if first.process.returncode == -signal.SIGTERM and team.plan.local < team.plan.number:
        return "MindSpore does this when another machine's process is gone; see the launchers there"
    return ""


def _reason(worker: Worker) -> str:
    code = worker.process.returncode
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ""
    if code == -signal.SIGKILL:
        hint = "; when nobody did it, memory ran out (dmesg says so): use fewer processes or less memory"
    return f"killed by {name}{hint}"


def _print_end(worker: Worker) -> None:
    try:
        for line in last_lines(worker.log):
            print(f"[{worker.name}] {line}", file=sys.stderr)
        sys.stderr.flush()
    except (OSError, ValueError):
        return


def _stand_still(team: Team, vigil: Vigil, culprit: Worker) -> int:
    """Print what every process does, and end them all."""
    lines = report(team, vigil, culprit)
    team.kill()
    team.show(is_final=True)
    for line in lines:
        say(line)
    say(f"the run was ended after {_duration(team)}; MF_HANG_SECONDS and MF_STOPPED_SECONDS say how long "
        "a standstill may last (0: for ever)")  # fmt: skip
    return EXIT_HANG


def _here(team: Team) -> str:
    return "" if team.plan.local == team.plan.number else " here"


def _duration(team: Team) -> str:
    seconds = time.monotonic() - team.began
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min {seconds} s" if hours else f"{minutes} min {seconds} s"
