"""What every command line of the package shares: errors as one line, exit codes, safe output."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

from mindformers.errors import ConfigError, MindFormersError, did_you_mean

DEBUG_FLAG = "--debug"
EXIT_BUG = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_PIPE = 141  # 128 + SIGPIPE

Main = Callable[[Sequence[str] | None], int]


class FlagParser(argparse.ArgumentParser):
    """An argument parser whose errors are ConfigErrors: one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what ``run_guarded`` prints, with the flags that an unknown one is near to."""
        unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        near = did_you_mean(unknown[1], self._option_string_actions) if unknown else ""
        raise ConfigError(message, where="command line", fix=near or "--help lists the flags")


def truth(text: str) -> bool:
    """Return the bool that ``true`` or ``false`` stands for, in any case.

    Raises:
        argparse.ArgumentTypeError: For any other text.
    """
    known = {"true": True, "false": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: true or false")
    return known[text.lower()]


def run_guarded(main: Main, argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; no error leaves a traceback unless asked for.

    Args:
        main: The command; takes the arguments and returns an exit code.
        argv: Arguments; None: those of the process. ``--debug`` among them shows tracebacks.

    Returns:
        The command's own code; the ``exit_code`` of a MindFormersError (2); 1 for any other error;
        130 after Ctrl-C; 141 when the reader of a pipe has gone.
    """
    is_debug = DEBUG_FLAG in (sys.argv[1:] if argv is None else argv)
    _make_output_safe()
    try:
        code = main(argv)
        _flush()
        return code
    except SystemExit as error:
        return _exit_code(error)
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return EXIT_PIPE
    except Exception as error:
        if is_debug:
            _say(traceback.format_exc().rstrip())
        _say(_told(error, is_debug))
        return error.exit_code if isinstance(error, MindFormersError) else EXIT_BUG


def _told(error: Exception, is_debug: bool) -> str:
    """Return the line that says an error."""
    if isinstance(error, MindFormersError):
        return f"error: {error}"
    if isinstance(error, OSError):
        return f"error: {_reason(error)}"
    text = _one_line(error)
    if isinstance(error, ModuleNotFoundError):
        return (
            f"error: {text}; the installation is incomplete: activate the environment it is in "
            "(source .venv/bin/activate), or install mindformers again"
        )
    if isinstance(error, MemoryError):
        return (
            f"error: not enough memory: {text or 'an allocation failed'}; use a smaller model, "
            "batch_size or seq_length, or a machine with more memory"
        )
    hint = "" if is_debug else f"; run again with {DEBUG_FLAG} to see where"
    return f"internal error: {type(error).__name__}: {text}{hint}"


@contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """Answer SIGTERM with an exception while inside, so that half-written output is removed."""
    received: list[int] = []

    def leave(number: int, _: FrameType | None) -> NoReturn:
        received.append(number)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except Exception as error:
        if received:  # a library made another error of it on its way
            raise SystemExit(128 + received[0]) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _make_output_safe() -> None:
    """Let a terminal that cannot show a character print its escape instead of failing.

    A stream that is closed (``>&-``) is None in Python; what is written there goes nowhere.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            sink = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 -- never closed
            setattr(sys, name, sink)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and (stream.encoding or "").lower().replace("-", "") != "utf8":
            reconfigure(errors="backslashreplace")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def _drop_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter's own flush does not fail."""
    sink = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        descriptor = _descriptor(stream)
        if descriptor is not None:
            os.dup2(sink, descriptor)
    os.close(sink)


def _descriptor(stream: TextIO | None) -> int | None:
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None


def _exit_code(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    _say(str(error.code))
    return EXIT_BUG


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        _drop_output()


def _reason(error: OSError) -> str:
    name = f"{error.filename}: " if error.filename else ""
    return f"{name}{error.strerror or _one_line(error) or type(error).__name__}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
