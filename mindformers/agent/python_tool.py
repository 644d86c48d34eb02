"""``python``: GLM-4's code interpreter, in a process of its own behind walls."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mindformers.agent.python_process import CellOutput, CellProcess, PythonLimits
from mindformers.agent.sandbox import KERNEL
from mindformers.agent.tool import POLL_SECONDS, own_text
from mindformers.errors import ToolError
from mindformers.logger import warn_once

_FENCE = re.compile(r"```(?:python|py)?\s*\n(.*?)\n?```", re.DOTALL)
_START_SECONDS = 20.0
_FOLDER_POLL_SECONDS = 0.25
_FUNCTION: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "python",
        "description": "Run Python code in a session that keeps its variables; gives what it prints "
        "and the value of its last expression. There is no internet.",
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "The code"}},
            "required": ["code"],
        },
    },
}


class PythonTool:
    """Runs a model's Python code; variables stay from call to call.

    The process is started at the first call, and anew after it was ended. It may use one CPU, a limited
    memory, its own folder and no network, and start no processes; see ``sandbox``.

    Args:
        folder: Where its files go, kept; None: a temporary folder, removed by ``close``.
        readable: Files and folders it may read beside Python itself.
        limits: What it may use.
    """

    name = "python"
    schema: Mapping[str, Any] = {"type": "python"}
    function_schema = _FUNCTION

    def __init__(
        self,
        folder: str | Path | None = None,
        readable: Sequence[str | Path] = (),
        limits: PythonLimits = PythonLimits(),  # noqa: B008 -- frozen
    ) -> None:
        self.limits = limits
        self.walls: dict[str, str] = {}  # who holds them, once a process has started
        self._readable = [str(Path(path).resolve()) for path in readable]
        self._kept = None if folder is None else Path(folder).resolve()
        self._folder: Path | None = None
        self._found = (0, 0)  # files and bytes that were there before
        self._process: CellProcess | None = None

    def call(self, arguments: str, seconds: float, stop: threading.Event) -> str:
        """Run code and return what it printed, with its traceback if it failed.

        Raises:
            ToolError: If the process had to be ended (time, output, files, too little memory) or died.
        """
        self.start()
        process = self._process
        assert process is not None
        self._bound_cpu(process, seconds)
        output = CellOutput(self.limits.output_bytes)
        process.send(code_of(arguments))
        reason = self._wait(process, output, seconds, stop)
        if not reason:
            return output.text() or "(no output)"
        self._end()
        if self._kept is None and self._fault_of_folder():
            self._remove_folder()
        said = output.text()
        raise ToolError(
            f"{reason}; the interpreter was started anew, its variables are gone"
            + (f"; output before that:\n{said}" if said else "")
        )

    def close(self) -> None:
        """End the process and remove a temporary folder."""
        self._end()
        if self._kept is None:
            self._remove_folder()

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def start(self) -> None:
        """Start the process, if it does not run; a warning says which walls the kernel does not hold.

        Raises:
            ToolError: If it does not start.
        """
        if self._process is not None:
            return
        if self._folder is None:
            self._folder = self._kept or Path(tempfile.mkdtemp(prefix="mindformers-python-"))
            self._folder.mkdir(parents=True, exist_ok=True)
            self._found = _contents(self._folder)
        process = CellProcess(self._folder, self._readable, self.limits)
        output = CellOutput(self.limits.output_bytes)
        if self._wait(process, output, _START_SECONDS, threading.Event()):
            process.end()
            raise ToolError(f"the interpreter does not start: {output.text()}")
        self._process, self.walls = process, process.last_reply["walls"]
        soft = [name for name, holder in self.walls.items() if holder != KERNEL]
        if soft:
            warn_once(
                "python: no kernel holds the walls around %s here, only Python itself: "
                "run no code that may want out",
                " and ".join(soft),
            )

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def _wait(
        self, process: CellProcess, output: CellOutput, seconds: float, stop: threading.Event
    ) -> str:
        """Take output until the process replies; return why it has to be ended, or nothing."""
        deadline = time.monotonic() + seconds
        folder_check = time.monotonic()
        while not process.poll(output, POLL_SECONDS):
            now = time.monotonic()
            if process.has_died:
                return f"the interpreter died ({process.how_it_died()})"
            if stop.is_set():
                return "stopped by the user"
            if now > deadline:
                return f"the code took longer than {seconds:g} s"
            if output.total > self.limits.flood_bytes:
                return f"the code printed more than {self.limits.flood_bytes} bytes"
            if now > folder_check:
                if reason := self._fault_of_folder():
                    return reason
                folder_check = now + _FOLDER_POLL_SECONDS
        return self._fault_of_folder()

    def _fault_of_folder(self) -> str:
        """Return what is wrong with the working folder, or nothing."""
        assert self._folder is not None
        files, size = (
            now - then for now, then in zip(_contents(self._folder), self._found, strict=True)
        )
        if size <= self.limits.folder_bytes and files <= self.limits.folder_files:
            return ""
        return f"the code left {files} files of {size} bytes, more than is allowed"

    def _bound_cpu(self, process: CellProcess, seconds: float) -> None:
        if not sys.platform.startswith("linux"):
            return
        import resource

        used = process.cpu_seconds()
        with suppress(OSError):
            resource.prlimit(process.child.pid, resource.RLIMIT_CPU, (int(used + seconds) + 2, -1))


def code_of(arguments: str) -> str:
    """Return the code of a call, also where a model puts it in a fence."""
    code = own_text(PythonTool.name, arguments)
    fence = _FENCE.fullmatch(code.strip())
    return fence[1] if fence else code


def _contents(folder: Path) -> tuple[int, int]:
    """Return how many files and folders are inside, and their bytes on the disk."""
    files, size = 0, 0
    for path, folders, names in os.walk(folder):
        for name in (*folders, *names):
            with suppress(OSError):
                files, size = files + 1, size + (Path(path) / name).lstat().st_blocks * 512
    return files, size
