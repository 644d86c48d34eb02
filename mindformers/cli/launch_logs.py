"""What the processes of a launched run say: a file each, one file of all, the first one on the terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

ALL_LOG = "all.log"
# What MindSpore's C++ side tells about itself; it stays in the files of the single processes.
_NOISE = re.compile(
    rb"\[(DEBUG|INFO|WARNING|EVENT)\] [A-Z_]+\(\d|\[ERROR\] ME\(.*CPU device is not supported"
)
_CALL_STACK = re.compile(rb"-{20,}\s*$|- C\+\+ Call Stack|mindspore/ccsrc/\S+:\d+ ")
_FATAL = b"Fatal Python error"
_LONGEST = 1 << 14  # bytes of an unfinished line that are held back
_TAIL = 1 << 18  # bytes at the end of a log that are searched for its last lines
_WIDEST = 300  # characters of a line in a report

Sink = Callable[[bytes], None]


class Terminal:
    """Where the lines of the first process go; a reader that has gone ends the showing, not the run."""

    def __init__(self) -> None:
        self._is_open = True

    def __call__(self, line: bytes) -> None:
        """Show one line."""
        if not self._is_open:
            return
        try:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except (OSError, ValueError):
            self._is_open = False
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the flush at the end is not to fail


class Collection:
    """The common file.

    Args:
        path: It is replaced.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)

    def sink(self, prefix: str) -> Sink:
        """Return what adds a line with a prefix."""
        mark = prefix.encode()

        def add(line: bytes) -> None:
            try:
                self._file.write(mark + line)
            except OSError:  # a full disk: the run goes on, it has reasons of its own to notice
                return

        return add

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Follower:
    """Passes on what is added to one process's log, whole lines, without what is noise.

    The process writes the file itself: it never waits for the launcher, and nothing is lost with it.

    Args:
        path: The log.
        sinks: What each line is given to.
    """

    def __init__(self, path: Path, sinks: list[Sink]) -> None:
        self._file = path.open("rb", buffering=0)
        self._sinks = sinks
        self._rest = b""

    def poll(self, *, is_final: bool = False) -> None:
        """Pass on what is new; with ``is_final`` also a last line without an end."""
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)  # somebody has emptied the log
        while piece := self._file.read(1 << 16):
            *lines, self._rest = (self._rest + piece).split(b"\n")
            for line in lines:
                self._pass_on(line + b"\n")
            if len(self._rest) > _LONGEST:
                self._flush()
        if is_final:
            self._flush()

    def _flush(self) -> None:
        if self._rest:
            self._pass_on(self._rest + b"\n")
            self._rest = b""

    def _pass_on(self, line: bytes) -> None:
        if not _NOISE.match(line):
            for sink in self._sinks:
                sink(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def last_lines(log: Path, count: int = 20) -> list[str]:
    """Return the last lines of a log that say something: none of MindSpore's own, none that are empty."""
    try:
        with log.open("rb") as source:
            source.seek(max(0, log.stat().st_size - _TAIL))
            lines = source.read().splitlines()
    except OSError:
        return []
    kept = [
        line
        for line in lines
        if line.strip() and not _NOISE.match(line) and not _CALL_STACK.match(line)
    ]
    fatal = next((index for index, line in enumerate(kept) if line.startswith(_FATAL)), None)
    kept = kept[-count:] if fatal is None else kept[fatal : fatal + count]
    return [shown(line.decode("utf-8", "replace")) for line in kept]


def shown(line: str) -> str:
    """Return a line as a report has it: what a terminal would obey is taken out, and it is not endless."""
    line = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).replace("\r", " ")
    return line if len(line) <= _WIDEST else line[:_WIDEST] + " ..."
