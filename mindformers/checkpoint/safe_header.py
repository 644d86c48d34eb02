"""The header of a safetensors file: read with limits and checked in full, or built.

A file from elsewhere may lie about anything. Nothing here allocates more than the limits allow, and
a header that passes describes bytes that exist, each of them once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from mindformers.checkpoint.dtypes import BY_SAFETENSORS, StoredType
from mindformers.checkpoint.tensor_file import StoredTensor
from mindformers.errors import CheckpointError, did_you_mean

MAX_HEADER_BYTES = 8 * 2**20  # 40 layers of GLM-4 take 35 KB
MAX_TENSORS = 20_000
MAX_AXES = 8
_LENGTH_BYTES = 8  # the header's length, little endian, stands first


def header_length(start: bytes, file_bytes: int, where: str) -> int:
    """Return the header's length in bytes from the first bytes of a file.

    Raises:
        CheckpointError: If the file is too short for it or the length cannot be true.
    """
    if file_bytes < _LENGTH_BYTES or len(start) < _LENGTH_BYTES:
        raise CheckpointError(
            f"truncated: {file_bytes} bytes, a safetensors file has at least {_LENGTH_BYTES + 2}",
            where=where,
            fix="copy or download the file again",
        )
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        kind = " (a pickle or zip archive?)" if start[:2] in (b"PK", b"\x80\x02") else ""
        raise CheckpointError(
            f"header of {length} bytes{kind}",
            where=where,
            allowed=f"at most {MAX_HEADER_BYTES}",
            fix="this is no safetensors file, or it is damaged",
        )
    if _LENGTH_BYTES + length > file_bytes:
        raise CheckpointError(
            f"truncated in the header: {file_bytes} bytes, expected more than "
            f"{_LENGTH_BYTES + length}",
            where=where,
            fix="copy or download the file again",
        )
    return length


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {twice!r} occurs twice")
    return result


def parse_header(
    text: bytes, file_bytes: int, where: str
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Check a header and return its tensors in file order, and its metadata.

    Args:
        text: The JSON bytes of the header.
        file_bytes: Size of the whole file.
        where: The file, for errors.

    Raises:
        CheckpointError: If any entry is malformed, or the tensors do not cover the data exactly.
    """
    if text.count(b'"data_offsets"') > MAX_TENSORS or text.count(b",") > 12 * MAX_TENSORS:
        raise CheckpointError("too many tensors", where=where, allowed=f"at most {MAX_TENSORS}")
    try:
        content = json.loads(text, object_pairs_hook=_no_duplicates)
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        metadata = content.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise ValueError("__metadata__ must map text to text")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"header is damaged: {error}", where=where, fix="copy or download the file again"
        ) from error
    data_start = _LENGTH_BYTES + len(text)
    tensors = [_entry(name, entry, data_start, where) for name, entry in content.items()]
    tensors.sort(key=lambda tensor: (tensor.segments[0], tensor.name))
    _check_cover(tensors, data_start, file_bytes, where)
    return {tensor.name: tensor for tensor in tensors}, metadata


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _entry(name: str, entry: Any, data_start: int, where: str) -> StoredTensor:
    """Check one tensor's entry by itself."""
    where = f"{where}: {name[:120]}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            "malformed entry", where=where, allowed="dtype, shape and data_offsets"
        )
    dtype = BY_SAFETENSORS.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        near = did_you_mean(str(entry["dtype"])[:20], BY_SAFETENSORS)
        raise CheckpointError(f"unknown dtype {str(entry['dtype'])[:40]!r}", where=where, fix=near)
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or len(shape) > MAX_AXES or not all(map(_is_count, shape)):
        raise CheckpointError(
            f"shape {str(shape)[:80]}", where=where, allowed=f"up to {MAX_AXES} sizes of 0 or more"
        )
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise CheckpointError(
            f"data_offsets {str(offsets)[:80]}", where=where, allowed="[begin, end], 0 or more"
        )
    begin, end = offsets
    needed = math.prod(shape) * dtype.bytes
    if end - begin != needed:
        raise CheckpointError(
            f"data_offsets span {end - begin} bytes, shape {shape} of {dtype.name} needs {needed}",
            where=where,
        )
    return StoredTensor(name, dtype, tuple(shape), ((data_start + begin, needed),))


def _check_cover(tensors: list[StoredTensor], data_start: int, file_bytes: int, where: str) -> None:
    """Check that the tensors, in file order, fill the data without overlap, gap or excess."""
    position = data_start
    for tensor in tensors:
        begin, length = tensor.segments[0]
        if begin < position:
            raise CheckpointError(
                "its bytes overlap another tensor's", where=f"{where}: {tensor.name}"
            )
        if begin > position:
            raise CheckpointError(
                f"{begin - position} bytes before it belong to no tensor",
                where=f"{where}: {tensor.name}",
            )
        position = begin + length
        if position > file_bytes:
            raise CheckpointError(
                f"truncated in the data of {tensor.name!r}: {file_bytes} bytes, expected "
                f"{max(sum(t.segments[0]) for t in tensors)}",
                where=where,
                fix="copy or download the file again",
            )
    if position < file_bytes:
        raise CheckpointError(
            f"{file_bytes - position} bytes after the last tensor: {file_bytes} bytes, expected "
            f"{position}",
            where=where,
            fix="copy or download the file again",
        )


def build_header(
    tensors: Iterable[tuple[str, StoredType, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """Return the length field and the JSON header for tensors that follow in this order.

    It is padded with spaces to a multiple of 8, so that the data is aligned.
    """
    content: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, dtype, shape in tensors:
        if name in content or name == "__metadata__":
            raise CheckpointError(f"the name {name!r} occurs twice or is reserved")
        end = position + math.prod(shape) * dtype.bytes
        content[name] = {
            "dtype": dtype.safetensors,
            "shape": list(shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text
