"""What the command lines of all tools do alike: errors in one line, exit codes, safe output."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from mindformers.errors import MindFormersError

Main = Callable[[Sequence[str] | None], int]
_SIGTERM_EXIT = 128 + signal.SIGTERM


def run_tool(main: Main, argv: Sequence[str] | None = None) -> int:
    """Run a tool and return its exit code.

    A ``MindFormersError`` becomes one line on stderr (with ``--debug`` the traceback), Ctrl-C
    130, SIGTERM 143 after cleaning up; a closed stdout ends it silently.

    Args:
        main: Takes the arguments and returns an exit code.
        argv: Arguments; None: those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    is_debug = "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # LANG=C cannot show every character
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        return main([argument for argument in arguments if argument != "--debug"])
    except MindFormersError as error:
        if is_debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that temporary files and workers are cleaned up on the way out."""
    raise SystemExit(_SIGTERM_EXIT)
