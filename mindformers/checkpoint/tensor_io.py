"""safetensors files: lazy reading, and writing that holds one block of rows in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindformers.checkpoint.atomic import atomic_file
from mindformers.checkpoint.dtypes import BY_NAME, StoredType, plain_array
from mindformers.checkpoint.output import OutputFile
from mindformers.checkpoint.safe_header import build_header, header_length, parse_header
from mindformers.checkpoint.tensor_file import TensorFile
from mindformers.errors import CheckpointError

Blocks = np.ndarray | Iterable[np.ndarray]


class SafeFile(TensorFile):
    """An open safetensors file whose header has been checked.

    Raises:
        CheckpointError: If it cannot be read or its header is not true.
    """

    def _scan(self) -> None:
        where = str(self.path)
        length = header_length(self.read_bytes(0, 8), self.size, where)
        text = self.read_bytes(8, length)
        self.tensors, self.metadata = parse_header(text, self.size, where)


@dataclass(frozen=True)
class TensorToWrite:
    """A tensor that is produced when its turn comes.

    Attributes:
        name: Its name in the file.
        dtype: Its element type.
        shape: Its axes.
        produce: Returns the array, or its rows in consecutive blocks; already in ``dtype``.
    """

    name: str
    dtype: StoredType
    shape: tuple[int, ...]
    produce: Callable[[], Blocks]

    @property
    def bytes(self) -> int:
        """Bytes it takes in a file."""
        return math.prod(self.shape) * self.dtype.bytes

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield its bytes in order, (bytes,) uint8 each.

        Raises:
            CheckpointError: If the producer yields another type or size than was announced.
        """
        produced = self.produce()
        count = 0
        for block in [produced] if isinstance(produced, np.ndarray) else produced:
            if block.dtype != self.dtype.numpy:
                raise CheckpointError(
                    f"produced as {block.dtype.name}, announced as {self.dtype.name}",
                    where=self.name,
                )
            data = np.ascontiguousarray(block).reshape(-1).view(np.uint8)
            count += data.nbytes
            if count <= self.bytes:  # never more than was announced; the rest is only counted
                yield data
        if count != self.bytes:
            raise CheckpointError(
                f"produced {count} bytes, announced {self.bytes}", where=self.name
            )


def array_to_write(name: str, array: np.ndarray) -> TensorToWrite:
    """Return an array that is at hand as a tensor to write."""
    plain = plain_array(array)
    return TensorToWrite(name, BY_NAME[plain.dtype.name], plain.shape, lambda: plain)


def write_safetensors(
    path: str | Path,
    tensors: Iterable[TensorToWrite],
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Path:
    """Write a safetensors file, whole or not at all, holding one block in memory.

    Args:
        path: The file.
        tensors: What to write, in this order.
        metadata: Text kept in the header; ``format: pt`` is what Hugging Face loaders ask for.
        progress: Called with the number of bytes just written.

    Returns:
        The path.

    Raises:
        CheckpointError: If the system refuses the write, or a producer breaks its announcement.
    """
    queue = list(tensors)
    header = build_header(((t.name, t.dtype, t.shape) for t in queue), metadata or {})
    needed = len(header) + sum(tensor.bytes for tensor in queue)
    with atomic_file(path, needed=needed) as temp, OutputFile(temp, needed) as file:
        file.write(header)
        for tensor in queue:
            for block in tensor.blocks():
                file.write(block.data)
                progress(block.nbytes)
    return Path(path)
