"""A file written once from start to end, while the next bytes are being made.

Blocks are written by a second thread. A large file goes to the disk directly where the system can do
that: copying gigabytes through the page cache costs more than writing them, pushes everything else
out of it, and they would have to be waited for at the end in any case.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from mindformers.checkpoint import tensor_file

DIRECT_BYTES = 64 * 2**20  # a smaller file stays in the page cache, where it may soon be read
_ALIGNMENT = 4096  # of offset, length and address of a direct write, on every usual disk
_WAITING = 2  # blocks that may wait for the disk


class OutputFile:
    """An open file that bytes are appended to; use it as a context manager.

    The ``with`` block's end writes what is left; after an error it only closes.

    Args:
        path: The file, made or emptied.
        expected: Bytes it will hold.

    Raises:
        OSError: From any call, if the system refuses a write; a later call may tell of an earlier one.
    """

    def __init__(self, path: Path, expected: int):
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        if expected >= DIRECT_BYTES:
            _set_direct(self._handle, True)
        size = max(tensor_file.BLOCK_BYTES, _ALIGNMENT)
        self._block_bytes = size - size % _ALIGNMENT
        self._block = self._new_block()
        self._filled = self._offset = 0
        self._waiting: list[Future[mmap.mmap]] = []
        self._thread: ThreadPoolExecutor | None = None

    def _new_block(self) -> mmap.mmap:
        return mmap.mmap(-1, self._block_bytes)  # memory of its own pages, so aligned

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes; they are copied, the caller may change them at once."""
        left = memoryview(data).cast("B")
        while left:
            part = left[: self._block_bytes - self._filled]
            self._block[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            left = left[len(part) :]
            if self._filled == self._block_bytes:
                self._hand_over()

    def _hand_over(self) -> None:
        """Give the full block to the thread and go on with one it is done with."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "write")
        self._waiting.append(self._thread.submit(self._put, self._block, self._offset))
        self._offset, self._filled = self._offset + self._block_bytes, 0
        waits = len(self._waiting) > _WAITING
        self._block = self._waiting.pop(0).result() if waits else self._new_block()

    def _put(self, block: mmap.mmap, offset: int) -> mmap.mmap:
        _write_at(self._handle, memoryview(block), offset)
        return block

    def _finish(self) -> None:
        for future in self._waiting:
            future.result()
        if self._filled:
            _set_direct(self._handle, False)  # the rest has any length
            _write_at(self._handle, memoryview(self._block)[: self._filled], self._offset)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._thread is not None:
                self._thread.shutdown(cancel_futures=True)
            os.close(self._handle)


def _set_direct(handle: int, wanted: bool) -> None:
    """Turn writing past the page cache on or off; a system that cannot do it goes on as it was."""
    direct = getattr(os, "O_DIRECT", 0)
    with suppress(OSError):
        flags = fcntl.fcntl(handle, fcntl.F_GETFL)
        fcntl.fcntl(handle, fcntl.F_SETFL, flags | direct if wanted else flags & ~direct)


def _write_at(handle: int, view: memoryview, offset: int) -> None:
    """Write all bytes; one that a file system refuses to write directly goes through the cache."""
    while view:
        try:
            count = os.pwrite(handle, view, offset)
        except OSError:
            if not fcntl.fcntl(handle, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0):
                raise
            _set_direct(handle, False)  # a second refusal is the true reason
            continue
        view, offset = view[count:], offset + count
