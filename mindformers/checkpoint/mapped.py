"""safetensors files mapped into memory: every tensor is a view of the file's own pages, not a copy.

Opening costs the header only. A page comes from the disk when it is first read, is shared with every
other process that maps the file, and the system may drop it again when memory is short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindformers.checkpoint.dtypes import BY_NAME, StoredType, is_finite, not_finite
from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.tensor_file import StoredTensor, TensorFile
from mindformers.checkpoint.tensor_io import SafeFile
from mindformers.errors import CheckpointError

_CHECK_ELEMENTS = 2**19  # of one step of a check: what the cache holds while it is read twice


@dataclass(frozen=True, eq=False)
class MappedTensor:
    """A stored tensor, or some of its rows, in the memory of its file.

    Attributes:
        name: Its name in the file.
        dtype: Its element type: ``float32``, ``bfloat16``, ``float16``, ``int8`` ...
        shape: Its axes; () for a scalar.
        array: (shape) read-only and contiguous; bfloat16 as uint16. It keeps the file mapped.
        address: Where the first element lies; a multiple of the element's size.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    array: np.ndarray
    address: int

    def rows(self, start: int, stop: int) -> MappedTensor:
        """Return rows ``start`` to ``stop`` of the first axis, in the same memory."""
        if (start, stop) == (0, self.shape[0] if self.shape else 1):
            return self
        return _view(self.name, self.dtype, self.array[start:stop])


class MappedFiles(Mapping[str, MappedTensor]):
    """The tensors of mapped files by name, in file order.

    Attributes:
        metadata: Text that the files carry beside their tensors; the first file's wins.
    """

    def __init__(self, files: Iterable[SafeFile]):
        self.metadata: dict[str, str] = {}
        self._tensors: dict[str, MappedTensor] = {}
        for file in files:
            self.metadata = {**file.metadata, **self.metadata}
            memory = file.map_memory()
            for name, tensor in file.tensors.items():
                self._tensors[name] = _mapped(tensor, memory)

    def __getitem__(self, name: str) -> MappedTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def can_be_mapped(files: Iterable[TensorFile]) -> bool:
    """Tell whether all files keep each tensor as one run of bytes: safetensors do, ``.ckpt`` not."""
    return all(isinstance(file, SafeFile) for file in files)


def map_files(files: Iterable[TensorFile]) -> MappedFiles:
    """Map open files; they may be closed afterwards.

    Raises:
        CheckpointError: If one is no safetensors file or the system cannot map it.
    """
    safe = []
    for file in files:
        if not isinstance(file, SafeFile):
            raise CheckpointError(
                "cannot be mapped",
                where=str(file.path),
                allowed=".safetensors",
                fix="convert it with convert_weight.py",
            )
        safe.append(file)
    return MappedFiles(safe)


def open_mapped(source: str | Path, verify: bool = True) -> MappedFiles:
    """Map the weights at ``source``.

    Args:
        source: A ``.safetensors`` file, or a directory as ``open_weights`` takes it: one file, shards
            with their index, a step folder.
        verify: For a step folder, compare the sha256 of the weight files first.

    Raises:
        CheckpointError: If nothing is there, a header is not true, or a file is no safetensors file.
    """
    with open_weights(source, verify) as weights:
        return map_files(weights.files)


def require_finite(tensors: Iterable[MappedTensor], where: Callable[[str], str]) -> None:
    """Refuse NaN and Inf; every page is read once.

    Args:
        tensors: What to look at.
        where: Tensor name -> where it lies, for the error.

    Raises:
        CheckpointError: For the first tensor that holds one.
    """
    for tensor in tensors:
        flat = tensor.array.reshape(-1).view(BY_NAME[tensor.dtype].numpy)
        for first in range(0, flat.size, _CHECK_ELEMENTS):
            if not is_finite(flat[first : first + _CHECK_ELEMENTS]):
                raise not_finite(where(tensor.name))


def _mapped(tensor: StoredTensor, memory: np.ndarray) -> MappedTensor:
    """Return a tensor's part of a file's memory; a copy of it where it starts between two elements."""
    offset, length = tensor.segments[0]
    part = memory[offset : offset + length]
    element = _held_as(tensor.dtype)
    if offset % element.itemsize:  # the mapping itself starts at a page
        part = part.copy()
        part.flags.writeable = False
    return _view(tensor.name, tensor.dtype.name, part.view(element).reshape(tensor.shape))


def _held_as(dtype: StoredType) -> np.dtype:
    """Return the array type for an element type; those NumPy lacks are held as plain bits."""
    return dtype.numpy if dtype.numpy.isbuiltin == 1 else np.dtype(f"uint{8 * dtype.bytes}")


def _view(name: str, dtype: str, array: np.ndarray) -> MappedTensor:
    return MappedTensor(name, dtype, array.shape, array, array.__array_interface__["data"][0])
