"""SIGINT and SIGTERM end a run after the step under way; a second one ends the process at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from mindformers.logger import logger

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """A context manager that turns the first signal into a wish to stop.

    Only the main thread can receive signals; elsewhere nothing is installed.

    Attributes:
        received: Number of the signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.received = number
        # The system's own handler works even while a long operator runs outside Python.
        for each in self._former:
            signal.signal(each, signal.SIG_DFL)
        logger.warning(
            "%s: stopping after this step; once more ends the process at once",
            signal.Signals(number).name,
        )
