"""Lazy reading of stored tensors: where the bytes lie, and the rows you ask for as an array.

The formats (``tensor_io``, ``ckpt_io``) find out where the bytes lie; reading is the same for all.
Bytes are read by position, so memory use is what was asked for and no more; ``map_memory`` gives the
whole file as memory to those who can use it where it lies (``mapped``).
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindformers.checkpoint.dtypes import StoredType
from mindformers.errors import CheckpointError

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl")  # neither read nor written
BLOCK_BYTES = 2**20  # rows are handed on in blocks of about this size, which a core's cache holds


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies.

    Attributes:
        name: Its name in the file.
        dtype: Its element type.
        shape: Its axes; () for a scalar.
        segments: (offset, bytes) in order; a large ``.ckpt`` entry has several.
    """

    name: str
    dtype: StoredType
    shape: tuple[int, ...]
    segments: tuple[tuple[int, int], ...]

    @property
    def rows(self) -> int:
        """Length of the first axis; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * self.dtype.bytes

    @property
    def bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.rows * self.row_bytes


class TensorFile:
    """An open file of tensors; use it as a context manager.

    Attributes:
        path: The file.
        tensors: Name -> where it lies, in file order.
        metadata: Text the file carries beside its tensors.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.tensors: dict[str, StoredTensor] = {}
        self.metadata: dict[str, str] = {}
        try:
            self._handle = os.open(self.path, os.O_RDONLY)
            if self.path.is_dir():
                os.close(self._handle)
                raise IsADirectoryError(21, "Is a directory", str(self.path))
        except OSError as error:
            raise CheckpointError(f"cannot read: {error.strerror}", where=str(self.path)) from error
        self.size = os.fstat(self._handle).st_size
        try:
            self._scan()
        except BaseException:
            self.close()
            raise

    def _scan(self) -> None:
        """Fill ``tensors``; each format says how."""

    def close(self) -> None:
        """Give the file back to the system."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_bytes(self, offset: int, count: int) -> bytes:
        """Return up to ``count`` bytes at ``offset``; fewer at the end of the file."""
        return os.pread(self._handle, count, offset)

    def map_memory(self) -> np.ndarray:
        """Return the file's bytes as memory, (size,) uint8 read-only; they outlive ``close``.

        The mapping ends with the last array that is a view of it. A file that is made shorter
        meanwhile ends the process (SIGBUS), as for every program that maps files; our own writers
        replace files and never shorten one.

        Raises:
            CheckpointError: If the system cannot map the file.
        """
        if self.size == 0:  # nothing to map, which the system refuses
            return np.frombuffer(b"", np.uint8)
        try:
            memory = mmap.mmap(self._handle, self.size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:  # ValueError: it became shorter since it was opened
            raise CheckpointError(f"cannot be mapped: {error}", where=str(self.path)) from error
        return np.frombuffer(memory, np.uint8)

    def read_into(self, name: str, start_row: int, out: np.ndarray) -> None:
        """Fill ``out`` with consecutive rows, bytes unchanged.

        Args:
            name: The tensor.
            start_row: First row to read.
            out: Contiguous array (rows, ...) of the tensor's element size.

        Raises:
            CheckpointError: If the file became shorter than its header says.
        """
        tensor = self.tensors[name]
        view = out.reshape(-1).view(np.uint8).data
        skip = start_row * tensor.row_bytes
        for offset, length in tensor.segments:
            if skip >= length:
                skip -= length
                continue
            part = view[: length - skip]
            self._fill(part, offset + skip, name)
            view, skip = view[len(part) :], 0
            if not view:
                return

    def _fill(self, view: memoryview, offset: int, name: str) -> None:
        while view:
            count = os.preadv(self._handle, [view], offset)
            if count == 0:
                raise CheckpointError(
                    "the file ended early while reading", where=f"{self.path}: {name}"
                )
            view, offset = view[count:], offset + count

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return rows ``start`` to ``stop`` (all by default) in the tensor's own element type."""
        tensor = self.tensors[name]
        stop = tensor.rows if stop is None else stop
        shape = (stop - start, *tensor.shape[1:]) if tensor.shape else ()
        out = np.empty(shape, tensor.dtype.numpy)
        if out.nbytes:
            self.read_into(name, start, out)
        return out

    def blocks(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Yield the same rows in pieces of about ``BLOCK_BYTES``."""
        tensor = self.tensors[name]
        stop = tensor.rows if stop is None else stop
        step = max(1, BLOCK_BYTES // max(1, tensor.row_bytes))
        for first in range(start, stop, step):
            yield self.read(name, first, min(stop, first + step))
