"""A program at a terminal of its own, typed to and read by a test."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|[\x01\x02]")


class Terminal:
    """Starts a program at a new terminal.

    Args:
        command: The program and its arguments.
        folder: Where it runs.
        variables: Changes of the environment.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, variables: dict[str, str] | None = None
    ) -> None:
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", **(variables or {})}
        self.process, self._handle = pty.fork()
        if self.process == 0:
            os.chdir(folder)
            os.execvpe(command[0], list(command), environment)
        self.raw = b""  # all that was written
        self.seen = ""  # the same as text, without colours
        self._read = 0  # of it, by ``until``

    def type(self, text: str) -> None:
        """Type ``text``; ``\\r`` is Enter, ``\\x03`` Ctrl-C, ``\\x04`` Ctrl-D."""
        os.write(self._handle, text.encode())

    def enter(self, text: str) -> None:
        """Type a line when the prompt is there: before that no line editor listens."""
        self.until("> ")
        self.type(f"{text}\r")

    def until(self, text: str, seconds: float = 30.0) -> str:
        """Read until ``text`` is shown; return what was shown up to it, without colours."""
        deadline = time.monotonic() + seconds
        while (place := self.seen.find(text, self._read)) < 0:
            if not self._more(deadline):
                raise AssertionError(f"{text!r} was not shown after: {self.seen[self._read :]!r}")
        shown = self.seen[self._read : place + len(text)]
        self._read = place + len(text)
        return shown

    def interrupt(self, text: str) -> str:
        """Press Ctrl-C until ``text`` is shown: Python's ``input`` misses one that comes between two keys."""
        for _ in range(15):
            self.type("\x03")
            with suppress(AssertionError):
                return self.until(text, 2.0)
        raise AssertionError(f"{text!r} was not shown after: {self.seen[self._read :]!r}")

    def exit_code(self, seconds: float = 60.0) -> int:
        """Read to the end; return the exit code."""
        deadline = time.monotonic() + seconds
        while self._more(deadline):
            pass
        _, status = os.waitpid(self.process, 0)
        self.process = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Kill the program if it still runs."""
        if self.process:
            with suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        os.close(self._handle)

    def _more(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._handle], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            return False
        try:
            data = os.read(self._handle, 65536)
        except OSError:  # Linux' way of saying that nobody writes any more
            return False
        self.raw += data
        self.seen = _ESCAPES.sub("", self.raw.decode("utf-8", "ignore")).replace("\r\n", "\n")
        return bool(data)
