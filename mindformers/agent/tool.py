"""What a tool is to the loop that runs it, and how work is ended when its time is up."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mindformers.errors import ToolError
from mindformers.tokenizer.call_form import OWN_ARGUMENTS, arguments_object

POLL_SECONDS = 0.05


class Tool(Protocol):
    """Something a model may call."""

    name: str  # the model writes it
    schema: Mapping[str, Any]  # what the chat template shows of it

    def call(self, arguments: str, seconds: float, stop: threading.Event) -> str:
        """Do what the model asks and return what it is told.

        Args:
            arguments: What the model wrote behind the name.
            seconds: Longest time it may take.
            stop: Set when nobody waits for the result any more.

        Raises:
            ToolError: If it cannot be done; the model is told the message.
        """

    def close(self) -> None:
        """Give back what the tool holds; it may be called again afterwards."""


def own_text(name: str, arguments: str) -> str:
    """Return the text a built-in tool is called with: what is in its one argument, or as it stands."""
    given = arguments_object(arguments)
    text = given.get(OWN_ARGUMENTS[name]) if given is not None else None
    return text if isinstance(text, str) else arguments


class _Ended(BaseException):
    """Raised inside a thread whose time is up."""


def run_in_time(work: Callable[[], Any], seconds: float, stop: threading.Event) -> Any:
    """Return what ``work`` gives, run in a thread of its own.

    When the time is up the thread is ended at its next Python instruction; a call into C (a long
    ``sleep``, a socket without a timeout) goes on in the background until it returns.

    Raises:
        ToolError: If the time is up or ``stop`` is set.
        Exception: Whatever ``work`` raises.
    """
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except _Ended:
            pass
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True, name="tool")
    thread.start()
    deadline = time.monotonic() + seconds
    while thread.is_alive() and not stop.is_set() and time.monotonic() < deadline:
        thread.join(POLL_SECONDS)
    if thread.is_alive():
        _end(thread)
        reason = "stopped by the user" if stop.is_set() else f"took longer than {seconds:g} s"
        raise ToolError(f"the call was ended: {reason}")
    if failure:
        raise failure[0]
    return outcome[0]


def _end(thread: threading.Thread) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Ended)
    )
