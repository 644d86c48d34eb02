"""MindSpore ``.ckpt`` files, read lazily and written streamed, without MindSpore.

The format is a protobuf message, ``repeated Value value = 1`` with ``Value {string tag = 1;
TensorProto tensor = 2}`` and ``TensorProto {repeated int64 dims = 1; string tensor_type = 2; bytes
tensor_content = 3}``. A large tensor is several entries of one tag. MindSpore itself reads the
whole file into memory; here only the entries' heads are read, then the rows that are asked for.
Source: ``mindspore/train/serialization.py`` and its ``checkpoint.proto``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mindformers.checkpoint.atomic import atomic_file
from mindformers.checkpoint.dtypes import BY_CKPT, StoredType
from mindformers.checkpoint.output import OutputFile
from mindformers.checkpoint.tensor_file import StoredTensor, TensorFile
from mindformers.checkpoint.tensor_io import TensorToWrite
from mindformers.errors import CheckpointError

_HEAD_BYTES = 4096  # names and shapes of an entry fit well into this
_MAX_ENTRIES = 200_000
_SLICE_BYTES = 512 * 2**20  # MindSpore's own size of one entry
_CRC_MARK = b"crc_num"  # followed by 10 bytes; at the end when saved with crc_check


class _Head:
    """A window on the file that reads protobuf's variable-length numbers."""

    def __init__(self, file: CkptFile, offset: int):
        self.file, self.start, self.position = file, offset, 0
        self.data = file.read_bytes(offset, _HEAD_BYTES)

    @property
    def offset(self) -> int:
        return self.start + self.position

    def number(self) -> int:
        result = shift = 0
        while True:
            if self.position >= len(self.data) or shift > 63:
                raise self.file.damaged(self.offset)
            byte = self.data[self.position]
            self.position += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result
            shift += 7

    def text(self) -> str:
        length = self.number()
        raw = self.data[self.position : self.position + length]
        if len(raw) != length:
            raise self.file.damaged(self.offset)
        self.position += length
        return raw.decode("utf-8", "replace")


class CkptFile(TensorFile):
    """An open ``.ckpt`` file; scalars and texts saved beside the weights are listed too.

    Raises:
        CheckpointError: If it cannot be read, is no such file (a pickle, say), or is truncated.
    """

    def damaged(self, offset: int) -> CheckpointError:
        """Return the error for bytes at ``offset`` that are not what the format says."""
        start = self.read_bytes(0, 2)
        if start in (b"PK", b"\x80\x02", b"\x80\x04"):
            return CheckpointError(
                "is a pickle, not a MindSpore .ckpt; it is not opened, a pickle can run any code",
                where=str(self.path),
                fix="save the weights as safetensors where they were made",
            )
        return CheckpointError(
            f"damaged, encrypted or no MindSpore .ckpt (byte {offset} of {self.size})",
            where=str(self.path),
            fix="copy the file again",
        )

    def _scan(self) -> None:
        if self.size == 0:
            raise CheckpointError("truncated: 0 bytes", where=str(self.path))
        end = self.size
        if self.size >= 17 and self.read_bytes(self.size - 17, 7) == _CRC_MARK:
            end -= 17
        parts: dict[str, list[tuple[int, int]]] = {}
        kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
        offset = entries = 0
        while offset < end:
            name, kind, shape, segment, offset = self._entry(offset, end)
            entries += 1
            if entries > _MAX_ENTRIES or kinds.setdefault(name, (kind, shape)) != (kind, shape):
                raise self.damaged(offset)
            parts.setdefault(name, []).append(segment)
        for name, (kind, shape) in kinds.items():
            self._add(name, kind, shape, tuple(parts[name]))

    def _entry(
        self, offset: int, end: int
    ) -> tuple[str, str, tuple[int, ...], tuple[int, int], int]:
        """Read one entry's head: its name, type, shape, where its bytes lie, where it ends."""
        head = _Head(self, offset)
        if head.number() != 0x0A:
            raise self.damaged(offset)
        length = head.number()
        stop = head.offset + length
        if stop > end:
            raise CheckpointError(
                f"truncated: {self.size} bytes, expected at least {stop}",
                where=str(self.path),
                fix="copy the file again",
            )
        if head.number() != 0x0A:
            raise self.damaged(offset)
        name = head.text()
        if head.number() != 0x12:
            raise self.damaged(offset)
        head.number()  # length of the tensor message: it ends where the entry ends
        dims: list[int] = []
        kind = ""
        while (field := head.number()) != 0x1A:
            if field == 0x08:
                dims.append(head.number())
            elif field == 0x12:
                kind = head.text()
            else:
                raise self.damaged(offset)
        count = head.number()
        if head.offset + count != stop:
            raise self.damaged(offset)
        return name, kind, tuple(dims), (head.offset, count), stop

    def _add(
        self, name: str, kind: str, shape: tuple[int, ...], segments: tuple[tuple[int, int], ...]
    ) -> None:
        stored = sum(length for _, length in segments)
        if kind == "str":  # MindSpore stores text as 4-byte characters
            raw = b"".join(self.read_bytes(*segment) for segment in segments if segment[1] < 2**20)
            self.metadata[name] = raw.decode("utf-32-le", "replace").rstrip("\0")
            return
        dtype = BY_CKPT.get(kind)
        if dtype is None:
            raise CheckpointError(f"unknown element type {kind!r}", where=f"{self.path}: {name}")
        shape = () if shape == (0,) and stored == dtype.bytes else shape  # how a scalar is written
        needed = math.prod(shape) * dtype.bytes
        if stored != needed:
            raise CheckpointError(
                f"holds {stored} bytes, shape {list(shape)} of {dtype.name} needs {needed}",
                where=f"{self.path}: {name}",
            )
        self.tensors[name] = StoredTensor(name, dtype, shape, segments)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + _varint(len(content)) + content


def _entry_head(name: str, dtype: StoredType, shape: tuple[int, ...], count: int) -> bytes:
    """Return everything of an entry that comes before its ``count`` bytes of content."""
    tensor = b"".join(b"\x08" + _varint(size) for size in shape or (0,))
    tensor += _field(0x12, dtype.ckpt.encode()) + b"\x1a" + _varint(count)
    value = _field(0x0A, name.encode()) + b"\x12" + _varint(len(tensor) + count) + tensor
    return b"\x0a" + _varint(len(value) + count) + value


def _parts(tensor: TensorToWrite) -> Iterator[tuple[bytes, memoryview]]:
    """Yield a tensor's bytes in parts, each with the head of its entry, or b"" within an entry."""
    left = tensor.bytes
    in_entry = 0  # bytes that the entry begun still lacks
    for block in tensor.blocks():
        view = block.data
        while view:
            head = b""
            if not in_entry:
                in_entry = min(left, _SLICE_BYTES)
                head = _entry_head(tensor.name, tensor.dtype, tensor.shape, in_entry)
            part = view[:in_entry]
            yield head, part
            view, in_entry, left = view[len(part) :], in_entry - len(part), left - len(part)


def write_ckpt(
    path: str | Path,
    tensors: Iterable[TensorToWrite],
    progress: Callable[[int], None] = lambda _: None,
) -> Path:
    """Write a ``.ckpt`` that ``mindspore.load_checkpoint`` reads, whole or not at all.

    Args:
        path: The file.
        tensors: What to write, in this order; one block of rows is in memory at a time.
        progress: Called with the number of bytes just written.

    Returns:
        The path.

    Raises:
        CheckpointError: If the system refuses the write, or a type has no name in this format.
    """
    queue = list(tensors)
    for tensor in queue:
        if not tensor.dtype.ckpt:
            raise CheckpointError(f"a .ckpt cannot hold {tensor.dtype.name}", where=tensor.name)
    needed = sum(tensor.bytes + 2 * len(tensor.name) + 64 for tensor in queue)
    with atomic_file(path, needed=needed) as temp, OutputFile(temp, needed) as file:
        for tensor in queue:
            for head, part in _parts(tensor):
                file.write(head)
                file.write(part)
                progress(len(part))
    return Path(path)
