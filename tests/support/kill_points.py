"""Run a function in a child process that kills itself at its k-th file operation, for every k.

``survey(action, check)`` forks once per k. The child is stopped by SIGKILL in the middle of ``action``
(before its k-th open, rename, removal, sync ... or ``tick()``); then ``check()`` runs in the parent.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link"}
_left = 0  # operations until the kill; 0: not counting


def tick() -> None:
    """Count one more operation; a writer calls it between two chunks of a file."""
    global _left
    if _left:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _hook(event: str, _: tuple[object, ...]) -> None:
    if event in _EVENTS:
        tick()


def survey(action: Callable[[], None], check: Callable[[], None], limit: int = 1000) -> int:
    """Kill ``action`` at each of its operations and run ``check`` after each; return how many."""
    global _left
    sys.addaudithook(_hook)
    sync = os.fsync
    os.fsync = lambda handle: (tick(), sync(handle))[1]  # type: ignore[assignment]
    for k in range(1, limit):
        child = os.fork()
        if child == 0:
            _left = k
            try:
                action()
            except BaseException:
                os._exit(3)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status) != 0:
                raise AssertionError("the action failed by itself")
            check()
            return k - 1
        check()
    raise AssertionError(f"more than {limit} operations")
