"""Signs of life for a launcher that watches this process: what it does, and since when. Needs no MindSpore."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from pathlib import Path

FILE_VARIABLE = "MF_HEARTBEAT_FILE"
_INTERVAL = 0.2  # seconds between two writes of the same phase

_state: dict[str, float | str] = {"written": 0.0, "phase": ""}


def start() -> None:
    """Let SIGUSR1 print the stack of every thread to stderr; without a launcher do nothing."""
    if os.environ.get(FILE_VARIABLE):
        faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
        beat("start")


def beat(phase: str) -> None:
    """Say that this process is alive.

    Args:
        phase: What it is about to do, for the report of a run that hangs.
    """
    target = os.environ.get(FILE_VARIABLE)
    now = time.monotonic()
    if not target or (now - float(_state["written"]) < _INTERVAL and phase == _state["phase"]):
        return
    if now - float(_state["written"]) < _INTERVAL / 10:  # thousands of exchanges a second
        return
    _state.update(written=now, phase=phase)
    try:
        Path(target).write_text(phase, encoding="utf-8")
    except OSError:  # a full disk must not end a run that is well otherwise
        return


def last_beat(path: Path) -> tuple[float, str] | None:
    """Return (seconds since the last sign, what it said), or None before the first."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime), path.read_text(encoding="utf-8")
    except OSError:
        return None
