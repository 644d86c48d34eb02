"""No process of a launched run outlives its launcher, not even one that is killed with SIGKILL (Linux).

Two safeguards: the kernel kills a worker when the launcher dies, and a guardian kills what workers had
started. What left its process group escapes the guardian; while the launcher lives it is found all the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_LIBC = ctypes.CDLL(None)


def dying_with(launcher: int) -> Callable[[], None]:
    """Return what a new process does first so that it is killed when the launcher dies."""

    def bind() -> None:
        if sys.platform == "linux":
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:  # it died before the line above
            os._exit(1)

    return bind


class Guardian:
    """A small second process that ends process groups once the launcher is gone."""

    def __init__(self) -> None:
        if sys.platform == "linux":
            _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what loses its parent becomes our child
        self._others = _children()  # a shell that became the launcher may have had some
        reader, self._writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._writer)
            try:
                _keep_watch(reader)
            finally:
                os._exit(0)
        os.close(reader)

    def add(self, group: int) -> None:
        """Guard a process group."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """Leave a process group alone: its number may belong to somebody else from now on."""
        self._tell(f"-{group}\n")

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._writer, text.encode())

    def close(self) -> None:
        """Send the guardian home and end what is left below the launcher."""
        os.close(self._writer)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        for _ in range(50):  # the children of what is killed become ours in turn
            left = [pid for pid in _children() if pid not in self._others]
            if not left:
                return
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)


def _children() -> list[int]:
    """Return the children of the calling thread's process (Linux; elsewhere none)."""
    try:
        path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
        return [int(pid) for pid in path.read_text().split()]
    except (OSError, ValueError):
        return []


def _keep_watch(reader: int) -> None:
    """Follow what is told until the launcher ends, then kill what is still guarded."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # who reads the launcher's output is not to wait for this process
        os.dup2(nowhere, descriptor)
    groups: set[int] = set()
    with os.fdopen(reader) as lines:
        for line in lines:
            (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)
