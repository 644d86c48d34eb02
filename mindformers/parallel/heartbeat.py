"""Signs of life for a launcher that watches this process: how often, and what it does. Needs no MindSpore."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import time
from pathlib import Path

FILE_VARIABLE = "MF_HEARTBEAT_FILE"
_INTERVAL = 0.2  # seconds between two writes of the same phase
_SIZE = 256  # bytes; one write of a fixed size replaces the whole of the last one


class _Pulse:
    """The file this process writes to; without one nothing is written."""

    def __init__(self) -> None:
        self.phase, self.written = "", float("-inf")
        self.file = -1
        path = os.environ.get(FILE_VARIABLE)
        if path:
            with contextlib.suppress(OSError):
                self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, phase: str, now: float) -> None:
        """Replace the last sign."""
        self.phase, self.written = phase, now
        text = f"{time.monotonic_ns()} {phase}".encode("utf-8", "replace")[:_SIZE].ljust(_SIZE)
        with contextlib.suppress(OSError):  # a full disk must not end a run that is well otherwise
            os.pwrite(self.file, text, 0)


_pulse: _Pulse | None = None


def start() -> None:
    """Let SIGUSR1 print the stack of every thread to stderr, and give the first sign of life."""
    global _pulse
    if hasattr(faulthandler, "register"):  # not on Windows
        with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
            stderr = sys.__stderr__ or sys.stderr
            faulthandler.register(signal.SIGUSR1, stderr, all_threads=True, chain=False)
    if _pulse is not None and _pulse.file >= 0:
        os.close(_pulse.file)
    _pulse = _Pulse()
    beat("starting")


def beat(phase: str = "") -> None:
    """Say that this process is alive; about 2 microseconds, and nothing without a launcher.

    Args:
        phase: What it is about to do, for the report of a run that stands still.
    """
    global _pulse
    if _pulse is None:
        _pulse = _Pulse()
    if _pulse.file < 0:
        return
    now = time.monotonic()
    if phase != _pulse.phase or now - _pulse.written >= _INTERVAL:
        _pulse.write(phase, now)


def read_beat(path: Path) -> tuple[int, str] | None:
    """Return (number of the last sign, what it said), or None before the first.

    Another number is another sign. That of a file's time would not do: clocks are set, also backwards.
    """
    try:
        number, _, phase = path.read_bytes().decode("utf-8", "replace").partition(" ")
        return int(number), phase.strip()
    except (OSError, ValueError):
        return None
