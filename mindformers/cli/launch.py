"""``msrun_launcher.sh``: start a script as several processes that find one another, and see them through."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mindformers.cli.launch_watch import watch
from mindformers.cli.launch_workers import Plan, Team
from mindformers.errors import ConfigError, DeviceError
from mindformers.guard import run_guarded

USAGE = """usage: bash scripts/msrun_launcher.sh "SCRIPT ARGUMENTS" [NUMBER]
       bash scripts/msrun_launcher.sh "SCRIPT ARGUMENTS" NUMBER PORT LOG_DIR JOIN TIMEOUT
       bash scripts/msrun_launcher.sh "SCRIPT ARGUMENTS" NUMBER LOCAL_NUMBER ADDRESS PORT NODE LOG_DIR JOIN TIMEOUT

Start a Python script as NUMBER processes, 8 by default; with 1 it simply runs.

  NUMBER         processes of the whole run
  LOCAL_NUMBER   of these, processes on this machine
  ADDRESS        where the first machine (NODE 0) can be reached; PORT 8118 by default
  NODE           number of this machine, from 0
  LOG_DIR        worker_<rank>.log of every process, all.log of all together (output/msrun_log)
  JOIN           True waits for the end and shows the first process (the default of the first form);
                 False leaves the run in the background
  TIMEOUT        seconds the processes wait for one another at the start (7200)

Environment: MF_HANG_SECONDS (600) without a sign of life end a run with every process's stack, 0 never;
MF_STOPPED_SECONDS (30) the same for a process that was stopped; MF_STOP_SECONDS (60) is what processes have
to save after Ctrl-C; MF_LOG_SUFFIX is added to the default LOG_DIR.
"""
_DEFAULT_PORT, _DEFAULT_TIMEOUT, _PORTS_TRIED = 8118, 7200, 100
_DETACHED = "MF_LAUNCH_DETACHED"


@dataclass(frozen=True)
class Request:
    """What the command line asks for; fields as in ``USAGE``."""

    command: tuple[str, ...]
    number: int = 8
    local: int = 8
    address: str = "127.0.0.1"
    port: int = _DEFAULT_PORT
    node: int = 0
    log_dir: Path = Path("output/msrun_log")
    is_joined: bool = True
    timeout: int = _DEFAULT_TIMEOUT


def parse(arguments: Sequence[str]) -> Request:
    """Read the positional arguments.

    Raises:
        ConfigError: If there are too few or too many, or one of them is wrong.
    """
    suffix = os.environ.get("MF_LOG_SUFFIX")
    default = Path("output/msrun_log" + (f"_{suffix}" if suffix else ""))
    if len(arguments) not in (1, 2, 6, 9):
        raise ConfigError(
            f"{len(arguments)} arguments", where="msrun_launcher.sh", allowed="1, 2, 6 or 9",
            fix="--help shows the forms",
        )  # fmt: skip
    command = tuple(shlex.split(arguments[0]))
    if not command:
        raise ConfigError(
            "no script is named", where="msrun_launcher.sh", fix="--help shows the forms"
        )
    number = _number("NUMBER", arguments[1], 1) if len(arguments) > 1 else 8
    if len(arguments) <= 2:
        return Request(command, number, number, log_dir=default)
    local, address, node, rest = number, "127.0.0.1", 0, list(arguments[2:])
    if len(arguments) == 9:
        local, address = _number("LOCAL_NUMBER", rest[0], 1), rest[1]
        node = _number("NODE", rest[3], 0)
        rest = [rest[2], *rest[4:]]
    port, log_dir, join, timeout = rest
    if join.lower() not in ("true", "false"):
        raise ConfigError(f"is {join!r}", where="JOIN", allowed="True or False")
    if local > number or (node + 1) * local > number:
        raise ConfigError(
            f"{local} processes on node {node} of {number}", where="LOCAL_NUMBER",
            allowed="as many on each node, NUMBER in all",
        )  # fmt: skip
    return Request(
        command, number, local, address, _number("PORT", port, 1, 65535), node, Path(log_dir),
        join.lower() == "true", _number("TIMEOUT", timeout, 1),
    )  # fmt: skip


def _number(name: str, text: str, lowest: int, highest: int | None = None) -> int:
    if not text.isdigit() or int(text) < lowest or (highest and int(text) > highest):
        bounds = f"{lowest} to {highest}" if highest else f"{lowest} or more"
        raise ConfigError(f"is {text!r}", where=name, allowed=f"a whole number, {bounds}")
    return int(text)


def find_script(name: str, repository: Path) -> str:
    """Return a script's path: as given, or in the repository.

    Raises:
        ConfigError: If it is in neither.
    """
    for path in (Path(name), repository / name):
        if path.is_file():
            return str(path)
    raise ConfigError("no such file", where=name, fix="give the path of a Python script")


def choose_port(request: Request) -> int:
    """Return the port the processes meet at: the one asked for, or the next free one on a single machine.

    Raises:
        DeviceError: If it is in use and several machines rely on it, or none is free.
    """
    for port in range(request.port, min(request.port + _PORTS_TRIED, 65536)):
        with socket.socket() as probe:
            try:
                probe.bind((request.address, port))
            except OSError as error:
                if request.local < request.number:
                    raise DeviceError(
                        f"{request.address}:{port} cannot be used: {error.strerror}", where="PORT",
                        fix="choose another port, the same on all machines",
                    ) from error  # fmt: skip
                continue
        if port != request.port:
            print(f"port {request.port} is in use; {port} is taken", flush=True)
        return port
    raise DeviceError(f"no port from {request.port} on is free", where="PORT")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the launcher; returns the exit code of the run."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    request = parse(arguments)
    repository = Path(__file__).resolve().parents[2]
    command = [
        sys.executable,
        "-u",
        find_script(request.command[0], repository),
        *request.command[1:],
    ]
    if request.number == 1:
        return _code(subprocess.run(command, check=False).returncode)
    if not request.is_joined and not os.environ.get(_DETACHED):
        return _detach(arguments, request)
    port = choose_port(request) if request.node == 0 else request.port
    plan = Plan(
        command, request.number, request.local, request.node, request.address, port,
        request.log_dir, request.timeout,
    )  # fmt: skip
    first = request.node * request.local
    print(
        f"starting {request.local} of {request.number} processes (ranks {first} to "
        f"{first + request.local - 1}) at {request.address}:{port}; follow all of them with: "
        f"tail -f {request.log_dir}/all.log",
        flush=True,
    )
    began = time.monotonic()
    with Team(plan) as team:
        code = watch(team)
    print(f"ended after {time.monotonic() - began:.1f} s with exit code {code}", flush=True)
    return code


def _detach(arguments: Sequence[str], request: Request) -> int:
    """Start this launcher once more in the background."""
    request.log_dir.mkdir(parents=True, exist_ok=True)
    log = request.log_dir / "launcher.log"
    with log.open("wb") as target:
        process = subprocess.Popen(
            [sys.executable, "-m", "mindformers.cli.launch", *arguments],
            env={**os.environ, _DETACHED: "1"}, stdin=subprocess.DEVNULL, stdout=target,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        code = process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        print(f"running in the background as process {process.pid}; follow it with: "
              f"tail -f {request.log_dir}/all.log; stop it with: kill {process.pid}")  # fmt: skip
        return 0
    print(log.read_text(errors="replace"), end="", file=sys.stderr)
    return _code(code)


def _code(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode


if __name__ == "__main__":
    sys.exit(run_guarded(main))
