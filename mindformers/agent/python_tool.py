"""``python``: GLM-4's code interpreter, in a process of its own behind walls."""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mindformers.agent.sandbox import KERNEL
from mindformers.agent.tool import POLL_SECONDS, own_text
from mindformers.errors import ToolError
from mindformers.logger import warn_once

_WORKER = Path(__file__).with_name("python_worker.py")
_FENCE = re.compile(r"```(?:python|py)?\s*\n(.*?)\n?```", re.DOTALL)
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
_START_SECONDS = 20.0
_READ_BYTES = 65536
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


@dataclass(frozen=True)
class PythonLimits:
    """What the code of a model may use.

    Args:
        memory_bytes: Address space of its process.
        file_bytes: Longest file.
        folder_bytes: All files of its folder.
        folder_files: How many they may be.
        output_bytes: What is kept of a cell's output: its beginning and its end.
        flood_bytes: Output after which a cell is ended.
    """

    memory_bytes: int = 2**30
    file_bytes: int = 64 * 2**20
    folder_bytes: int = 256 * 2**20
    folder_files: int = 2000
    output_bytes: int = 20_000
    flood_bytes: int = 64 * 2**20


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
        limits: PythonLimits = PythonLimits(),
    ) -> None:
        self.limits = limits
        self.walls: dict[str, str] = {}  # who holds them, once a process has started
        self._readable = [str(Path(path).resolve()) for path in readable]
        self._kept = None if folder is None else Path(folder).resolve()
        self._folder: Path | None = None
        self._found = (0, 0)  # files and bytes that were there before
        self._process: _Process | None = None

    def call(self, arguments: str, seconds: float, stop: threading.Event) -> str:
        """Run code and return what it printed, with its traceback if it failed.

        Raises:
            ToolError: If the process had to be ended (time, output, files, too little memory) or died.
        """
        self.start()
        process = self._process
        assert process is not None
        self._bound_cpu(process, seconds)
        output = _Output(self.limits.output_bytes)
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
        process = _Process(self._folder, self._readable, self.limits)
        output = _Output(self.limits.output_bytes)
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
        self, process: _Process, output: _Output, seconds: float, stop: threading.Event
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

    def _bound_cpu(self, process: _Process, seconds: float) -> None:
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


class _Output:
    """The beginning and the end of what is written, however long it is."""

    def __init__(self, limit: int) -> None:
        self.total = 0
        self._head, self._tail = bytearray(), bytearray()
        self._room_head, self._room_tail = limit * 3 // 4, limit // 4

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self._room_head - len(self._head)
        self._head += data[:room]
        self._tail = (self._tail + data[max(room, 0) :])[-self._room_tail :]

    def text(self) -> str:
        left_out = self.total - len(self._head) - len(self._tail)
        between = f"\n[... {left_out} bytes left out ...]\n".encode() if left_out else b""
        return (self._head + between + self._tail).decode("utf-8", "replace").rstrip("\n")


class _Process:
    """The process of the code: cells in, output and replies out."""

    def __init__(self, folder: Path, readable: list[str], limits: PythonLimits) -> None:
        output, output_end = os.pipe()
        replies, replies_end = os.pipe()
        settings = {
            **asdict(limits),
            "folder": str(folder),
            "readable": readable,
            "replies": replies_end,
        }
        self.child = subprocess.Popen(
            [sys.executable, "-I", "-B", "-X", "utf8", str(_WORKER), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=output_end,
            stderr=output_end,
            pass_fds=[replies_end],
            env=_environment(folder),
            cwd=folder,
            start_new_session=True,
        )
        for handle in (output_end, replies_end):
            os.close(handle)
        self.last_reply: dict[str, Any] = {}
        self.has_died = False
        self._output, self._replies, self._line = output, replies, b""
        self._selector = selectors.DefaultSelector()
        for handle in (output, replies):
            os.set_blocking(handle, False)
            self._selector.register(handle, selectors.EVENT_READ)

    def send(self, code: str) -> None:
        """Have a cell run."""
        assert self.child.stdin is not None
        with suppress(BrokenPipeError):  # its death shows when its reply is waited for
            self.child.stdin.write(json.dumps({"code": code}).encode() + b"\n")
            self.child.stdin.flush()

    def poll(self, output: _Output, seconds: float) -> bool:
        """Take what there is, waiting at most ``seconds``; tell whether the cell has ended."""
        for key, _ in self._selector.select(seconds):
            data = _read(int(key.fd))
            if key.fd == self._output:
                output.add(data)
            else:
                self._line += data
                self.has_died = not data
            if not data:
                self._selector.unregister(key.fd)
        if not self._line.endswith(b"\n"):
            return False
        line, self._line = self._line, b""
        while data := _read(self._output):  # written before the reply
            output.add(data)
        with suppress(ValueError):  # the code may write there too
            self.last_reply = json.loads(line)
        return True

    def cpu_seconds(self) -> float:
        """Return the processor time used so far (Linux)."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text(encoding="ascii").rpartition(")")[2]
        return sum(map(int, fields.split()[11:13])) / os.sysconf("SC_CLK_TCK")

    def how_it_died(self) -> str:
        """Return signal or exit code in words."""
        code = self.child.wait(timeout=5)
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def end(self) -> None:
        """Kill it and close the pipes."""
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        if self.child.stdin is not None:
            with suppress(BrokenPipeError):
                self.child.stdin.close()
        self._selector.close()
        for handle in (self._output, self._replies):
            os.close(handle)


def _read(handle: int) -> bytes:
    try:
        return os.read(handle, _READ_BYTES)
    except BlockingIOError:
        return b""


def _environment(folder: Path) -> dict[str, str]:
    """Return the environment of the process: no secret of this one's, and one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    own = {"HOME": folder, "TMPDIR": folder, "MPLCONFIGDIR": folder / ".matplotlib"}
    return {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        **{name: str(path) for name, path in own.items()},
        **threads,
        "MPLBACKEND": "Agg",
        "LANG": "C.UTF-8",
    }
