"""The process of the code interpreter, seen from outside: cells in, output and replies out."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_WORKER = Path(__file__).with_name("python_worker.py")
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
_READ_BYTES = 65536


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


class CellOutput:
    """The beginning and the end of what is written, however long it is."""

    def __init__(self, limit: int) -> None:
        self.total = 0
        self._head, self._tail = bytearray(), bytearray()
        self._room_head, self._room_tail = limit * 3 // 4, limit // 4

    def add(self, data: bytes) -> None:
        """Take more of it."""
        self.total += len(data)
        room = self._room_head - len(self._head)
        self._head += data[:room]
        self._tail = (self._tail + data[max(room, 0) :])[-self._room_tail :]

    def text(self) -> str:
        """Return what was kept, with how much was not."""
        left_out = self.total - len(self._head) - len(self._tail)
        between = f"\n[... {left_out} bytes left out ...]\n".encode() if left_out else b""
        return (self._head + between + self._tail).decode("utf-8", "replace").rstrip("\n")


class CellProcess:
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

    def poll(self, output: CellOutput, seconds: float) -> bool:
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
