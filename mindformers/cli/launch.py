"""``msrun_launcher.sh``: start a script as several processes that find one another, and see them through."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from mindformers.cli.launch_logs import ALL_LOG, Collection, Terminal
from mindformers.cli.launch_port import meeting_point
from mindformers.cli.launch_request import USAGE, Request, WrongFormError, find_script, parse
from mindformers.cli.launch_watch import Limits, Wish, say, watch
from mindformers.cli.launch_workers import Plan, Team
from mindformers.errors import ConfigError
from mindformers.guard import DEBUG_FLAG, run_guarded

_REPOSITORY = Path(__file__).resolve().parents[2]
_STARTED = "started"  # what a launcher in the background says when it has done so


def main(argv: Sequence[str] | None = None) -> int:
    """Run the launcher; returns the exit code of the run."""
    arguments = [each for each in (sys.argv[1:] if argv is None else argv) if each != DEBUG_FLAG]
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    try:
        request = parse(arguments)
    except WrongFormError:
        print(USAGE, file=sys.stderr)
        raise
    limits = Limits()
    command = [sys.executable, *find_script(request.command, _REPOSITORY)]
    _add_to_path()
    if request.number == 1 and request.is_joined:
        _become(command)
    return _run(request, command, limits)


def _add_to_path() -> None:
    """Let the processes import the package from where the launcher has it."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if str(_REPOSITORY) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_REPOSITORY), *paths])


def _become(command: list[str]) -> None:
    """Turn into the script: nothing stands between a single process and its terminal."""
    # A run that asks for several processes (use_parallel) accepts one that a launcher started.
    os.environ |= {"MS_WORKER_NUM": "1", "RANK_SIZE": "1", "RANK_ID": "0"}
    sys.stdout.flush()
    os.execv(command[0], command)


def _run(request: Request, command: list[str], limits: Limits) -> int:
    """Start the processes of this machine and see them through."""
    with contextlib.ExitStack() as stack:
        owner = stack.enter_context(_own_log_dir(request))
        if not request.is_joined:
            code = _leave_terminal(request)
            if code is not None:
                return code
        owner.truncate(0)
        print(os.getpid(), file=owner, flush=True)
        wish = Wish()
        address, port = stack.enter_context(meeting_point(request))
        plan = Plan(
            command, request.number, request.local, request.node, address, port,
            request.log_dir, request.timeout,
        )  # fmt: skip
        everything = request.log_dir / _of_node(ALL_LOG, request)
        collection = stack.enter_context(contextlib.closing(Collection(everything)))
        _announce(plan, request, everything)
        with Team(plan, Terminal(), collection) as team:
            team.start_scheduler()
            while not team.is_open() and wish.number is None:
                time.sleep(0.05)
            team.start_workers()
            say(f"{_STARTED}; process ids {', '.join(str(w.process.pid) for w in team.workers)}")
            return watch(team, limits, wish)


def _announce(plan: Plan, request: Request, everything: Path) -> None:
    """Say what is started and where it can be followed."""
    if plan.number > 1 and plan.port != request.port:
        say(f"port {request.port} is in use; the processes meet at {plan.port}")
    count, first, last = len(plan.ranks), plan.ranks[0], plan.ranks[-1]
    text = f"{count} process{'es' if count > 1 else ''}"
    if not request.is_alone:
        ranks = f"ranks {first} to {last}" if last > first else f"rank {first}"
        text += f" of {plan.number} ({ranks}, machine {plan.node})"
    if plan.number > 1:
        text += f", meeting at {plan.address}:{plan.port}"
    say(f"{text}: {' '.join(plan.command[1:])}")
    say(f"shown is rank {first}; all of them: tail -f {everything}")


def _of_node(name: str, request: Request) -> str:
    """Return a file name that machines with a common LOG_DIR do not share."""
    path = Path(name)
    return name if request.node == 0 else f"{path.stem}_node{request.node}{path.suffix}"


@contextlib.contextmanager
def _own_log_dir(request: Request) -> Iterator[TextIO]:
    """Make LOG_DIR and keep it from other launchers; logs of an earlier run leave it.

    Raises:
        ConfigError: If it cannot be written to, or another run writes to it.
    """
    folder = request.log_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        owner = (folder / _of_node("launcher.pid", request)).open("a+")
    except OSError as error:
        raise ConfigError(
            f"cannot be written to: {error.strerror}",
            where=str(folder),
            fix="choose another LOG_DIR",
        ) from error
    with owner:
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner.seek(0)
            raise ConfigError(
                f"another run writes its logs here (launcher: process {owner.read().strip()})",
                where=str(folder),
                fix="wait for it, or choose another LOG_DIR (MF_LOG_SUFFIX adds to the default one)",
            ) from error
        if request.is_alone:
            for old in [*folder.glob("worker_*.log"), *folder.glob(".beat_*"),
                        *folder.glob("scheduler.log")]:  # fmt: skip
                old.unlink(missing_ok=True)
        yield owner


def _leave_terminal(request: Request) -> int | None:
    """Go on in the background; returns None there, and in the process that was called the exit code.

    That process waits until the others are started, or could not be.
    """
    log = request.log_dir / _of_node("launcher.log", request)
    log.write_bytes(b"")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        target = os.open(log, os.O_WRONLY | os.O_APPEND)
        for descriptor in (1, 2):
            os.dup2(target, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        return None
    status = 0
    while f"launch: {_STARTED}" not in log.read_text("utf-8", "replace"):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.05)
    print(log.read_text("utf-8", "replace"), end="", file=sys.stderr)
    if status == 0:
        say(f"runs in the background as process {child}; how it ends is told in {log}")
        say(f"to stop it, saving: kill {child}")
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(run_guarded(main))
