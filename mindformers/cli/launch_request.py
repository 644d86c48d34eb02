"""What the launcher is asked for: its arguments, read and checked before anything is started."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mindformers.errors import ConfigError, did_you_mean
from mindformers.machine import usable_cpus

USAGE = """usage: bash scripts/msrun_launcher.sh "SCRIPT ARGUMENTS" [NUMBER]
       bash scripts/msrun_launcher.sh "SCRIPT ARGUMENTS" NUMBER PORT LOG_DIR JOIN TIMEOUT
       bash scripts/msrun_launcher.sh "SCRIPT ARGUMENTS" NUMBER LOCAL ADDRESS PORT NODE LOG_DIR JOIN TIMEOUT

Start a Python script as NUMBER processes that find one another; with NUMBER 1 it simply runs.

  SCRIPT     a Python file, looked for here and then in the repository; "-m MODULE" works too
  NUMBER     processes of the whole run (8)
  LOCAL      of these, processes on this machine (NUMBER)
  ADDRESS    where machine 0 can be reached by the others (127.0.0.1)
  PORT       where the processes meet on it (8118; on one machine the next free one)
  NODE       which machine this is, from 0
  LOG_DIR    gets worker_<rank>.log of every process and all.log of all together (output/msrun_log)
  JOIN       True: wait for the end and show the first process; False: run in the background.
             The first form waits
  TIMEOUT    seconds the processes wait for one another at the start (7200)

Environment:
  MF_HANG_SECONDS     end a run in which no process has given a sign of life for so long (600; 0: never)
  MF_STOPPED_SECONDS  the same for a process that was stopped with SIGSTOP (30; 0: never)
  MF_STOP_SECONDS     what processes have to save after Ctrl-C or kill (60)
  MF_LOG_SUFFIX       is added to the default LOG_DIR
  OMP_NUM_THREADS, MINDFORMERS_THREADS   threads of a process (CPUs / LOCAL)

Exit code: 0; that of the first process that failed; 124 standstill; 130 Ctrl-C; 143 kill; 2 wrong arguments.
"""
DEFAULT_NUMBER, DEFAULT_PORT, DEFAULT_TIMEOUT = 8, 8118, 7200  # the published script's
_FORMS = (1, 2, 6, 9)
_MOST_PER_CPU, _MOST_AT_LEAST = 16, 64  # a port typed for a number must not start 8118 processes


@dataclass(frozen=True)
class Request:
    """What the command line asks for; fields as in ``USAGE``."""

    command: tuple[str, ...]
    number: int
    local: int
    address: str
    port: int
    node: int
    log_dir: Path
    is_joined: bool
    timeout: int

    @property
    def is_alone(self) -> bool:
        """Whether all processes are on this machine."""
        return self.local == self.number


class WrongFormError(ConfigError):
    """The number of arguments is that of no form."""


def parse(arguments: Sequence[str]) -> Request:
    """Read the arguments.

    Raises:
        ConfigError: If there are too few or too many, or one of them is wrong.
    """
    given = [argument.strip() for argument in arguments]
    if len(given) not in _FORMS:
        raise WrongFormError(
            f"{len(given)} arguments",
            where="msrun_launcher.sh",
            allowed="1, 2, 6 or 9, the first of them a script and its arguments in quotes",
        )
    command = split_command(given[0])
    number = _whole("NUMBER", given[1], 1) if len(given) > 1 else DEFAULT_NUMBER
    local, address, node = str(number), "127.0.0.1", "0"
    port, log_dir, join, timeout = str(DEFAULT_PORT), str(default_log_dir()), "True", ""
    if len(given) == 6:
        port, log_dir, join, timeout = given[2:]
    elif len(given) == 9:
        local, address, port, node, log_dir, join, timeout = given[2:]
    if join.lower() not in ("true", "false"):
        raise ConfigError(
            f"is {join!r}", where="JOIN", allowed="True (wait) or False (in the background)"
        )
    request = Request(
        command=command,
        number=number,
        local=_whole("LOCAL", local, 1),
        address=address,
        port=_whole("PORT", port, 1, 65535),
        node=_whole("NODE", node, 0),
        log_dir=Path(log_dir or default_log_dir()),
        is_joined=join.lower() == "true",
        timeout=_whole("TIMEOUT", timeout, 1) if timeout else DEFAULT_TIMEOUT,
    )
    _check_counts(request)
    return request


def default_log_dir() -> Path:
    """Return where logs go when nothing is said."""
    suffix = os.environ.get("MF_LOG_SUFFIX")
    return Path("output") / (f"msrun_log_{suffix}" if suffix else "msrun_log")


def split_command(text: str) -> tuple[str, ...]:
    """Split a command into words; line ends and what continues a line are blanks.

    Raises:
        ConfigError: If there is no word, or a quotation mark without its partner.
    """
    try:
        words = shlex.split(re.sub(r"\\[ \t\r]*\n", " ", text))
    except ValueError as error:
        raise ConfigError(
            f"{str(error).lower()} in {text!r}", where="SCRIPT", fix="close what is quoted"
        ) from error
    if words and re.fullmatch(r"python[\d.]*", Path(words[0]).name):
        words = words[1:]  # the launcher chooses the interpreter
    if not words:
        raise ConfigError("no script is named", where="SCRIPT", fix="--help shows the forms")
    return tuple(words)


def find_script(command: Sequence[str], repository: Path) -> list[str]:
    """Return the command with the script's path as it was found: here, or in the repository.

    Raises:
        ConfigError: If it is in neither.
    """
    name, *rest = command
    if name == "-m":
        return list(command)
    for path in (Path(name), repository / name):
        if path.is_file():
            return [str(path), *rest]
    near = [path.name for folder in (Path(), repository) for path in folder.glob("*.py")]
    raise ConfigError(
        "is a folder" if Path(name).is_dir() else "no such file",
        where=name,
        allowed=f"a Python script in {Path.cwd()} or {repository}",
        fix=did_you_mean(name, near),
    )


def _whole(name: str, text: str, lowest: int, highest: int | None = None) -> int:
    if not (text.isascii() and text.isdigit()) or not lowest <= int(text) <= (highest or int(text)):
        bounds = f"{lowest} to {highest}" if highest else f"{lowest} or more"
        raise ConfigError(f"is {text!r}", where=name, allowed=f"a whole number, {bounds}")
    return int(text)


def _check_counts(request: Request) -> None:
    number, local, node = request.number, request.local, request.node
    most = max(_MOST_AT_LEAST, _MOST_PER_CPU * usable_cpus())
    if local > most:
        raise ConfigError(
            f"{local} processes on one machine",
            where="NUMBER" if request.is_alone else "LOCAL",
            allowed=f"up to {most} here",
        )
    if local > number:
        raise ConfigError(
            f"{local} processes on this machine of {number} in all",
            where="LOCAL",
            allowed=f"1 to {number}",
        )
    if number % local:
        raise ConfigError(
            f"{number} processes cannot be shared by machines of {local}",
            where="LOCAL",
            allowed="the same number on every machine, NUMBER in all",
        )
    if node >= number // local:
        raise ConfigError(
            f"machine {node} with {local} of {number} processes",
            where="NODE",
            allowed=f"0 to {number // local - 1}",
            fix="LOCAL is what one machine runs, NUMBER what all of them run",
        )
