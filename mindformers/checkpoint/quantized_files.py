"""Quantized weights in safetensors files: their names, what the header says, reading them as float32.

A weight ``<name>`` of (rows, cols) is stored as ``<name>.qweight``, ``<name>.scales`` and, for asymmetric
int4, ``<name>.zeros``; the header's ``quantization`` says how (see ``quantized`` for the bytes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mindformers.checkpoint.dtypes import BY_NAME
from mindformers.checkpoint.json_file import parse_object
from mindformers.checkpoint.quantized import QuantizedMatrix, Scheme, dequantize
from mindformers.checkpoint.tensor_file import BLOCK_BYTES, StoredTensor
from mindformers.errors import CheckpointError, ConfigError

METADATA_KEY = "quantization"
VALUES, SCALES, ZEROS = ".qweight", ".scales", ".zeros"
_BITS = {"int8": 8, "uint8": 4}
ReadRows = Callable[[str, int, int], np.ndarray]


@dataclass(frozen=True)
class Description:
    """What a file's header says.

    Attributes:
        scheme: How most weights are rounded.
        others: Weight -> its scheme, where that is another one.
        excluded: Matrices that are stored in floating point.
    """

    scheme: Scheme
    others: Mapping[str, Scheme] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()

    def scheme_of(self, name: str) -> Scheme:
        """Return how a weight is rounded."""
        return self.others.get(name, self.scheme)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for a header."""
        others = {name: _plain(scheme) for name, scheme in self.others.items()}
        return {**_plain(self.scheme), "others": others, "excluded": list(self.excluded)}


def _plain(scheme: Scheme) -> dict[str, Any]:
    return {"bits": scheme.bits, "group_size": scheme.group, "symmetric": scheme.symmetric}


def _scheme(content: Any, where: str) -> Scheme:
    kinds = {"bits": int, "group_size": int, "symmetric": bool}
    if not isinstance(content, dict) or any(
        type(content.get(key)) is not kind for key, kind in kinds.items()
    ):
        raise CheckpointError(
            f"{METADATA_KEY} of the header is {content!r}",
            where=where,
            allowed=", ".join(f"{key} ({kind.__name__})" for key, kind in kinds.items()),
        )
    try:
        return Scheme(content["bits"], content["group_size"], content["symmetric"])
    except ConfigError as error:
        raise CheckpointError(f"{METADATA_KEY} of the header: {error}", where=where) from error


def read_description(metadata: Mapping[str, str], where: str) -> Description | None:
    """Return what a header says, or None where it says nothing.

    Raises:
        CheckpointError: If it makes no sense.
    """
    text = metadata.get(METADATA_KEY)
    if text is None:
        return None
    content = parse_object(text, where)
    others, excluded = content.get("others", {}), content.get("excluded", [])
    if not isinstance(others, dict) or not isinstance(excluded, list):
        raise CheckpointError(
            f"{METADATA_KEY} of the header", where=where, allowed="others: {}, excluded: []"
        )
    return Description(
        _scheme(content, where),
        {name: _scheme(each, f"{where}: {name}") for name, each in others.items()},
        tuple(map(str, excluded)),
    )


@dataclass(frozen=True)
class QuantizedTensor:
    """A stored quantized weight.

    Attributes:
        name: Of the weight.
        scheme: How it is rounded.
        shape: (rows, cols).
    """

    name: str
    scheme: Scheme
    shape: tuple[int, int]

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the stored tensors."""
        return tuple(self.name + end for end in self._ends)

    @property
    def _ends(self) -> tuple[str, ...]:
        return (VALUES, SCALES) if self.scheme.symmetric else (VALUES, SCALES, ZEROS)

    def as_float(self) -> StoredTensor:
        """Return what it looks like to those who read it as float32."""
        return StoredTensor(self.name, BY_NAME["float32"], self.shape, ())

    def blocks(self, read: ReadRows, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield rows in float32, in blocks.

        Args:
            read: (stored name, first row, end) -> rows.
            start: First row.
            stop: End.
        """
        step = max(1, BLOCK_BYTES // (4 * self.shape[1]))
        for first in range(start, stop, step):
            end = min(stop, first + step)
            yield dequantize(QuantizedMatrix(*(read(name, first, end) for name in self.parts)))


def quantized_tensors(
    tensors: Mapping[str, StoredTensor], description: Description | None, where: str
) -> dict[str, QuantizedTensor]:
    """Return the quantized weights among stored tensors, by name.

    Raises:
        CheckpointError: If the header says nothing of them, parts of one are missing, or they are not as it says.
    """
    names = [name.removesuffix(VALUES) for name in tensors if name.endswith(VALUES)]
    if names and description is None:
        raise CheckpointError(
            f"{names[0]}{VALUES} is there, but the header has no {METADATA_KEY}",
            where=where,
            fix="convert the weights again with convert_weight.py --quantization",
        )
    if description is None:
        return {}
    return {name: _checked(name, tensors, description.scheme_of(name), where) for name in names}


def _checked(
    name: str, tensors: Mapping[str, StoredTensor], scheme: Scheme, where: str
) -> QuantizedTensor:
    where = f"{where}: {name}"
    values = tensors[name + VALUES]
    per_byte = 8 // scheme.bits
    if _BITS.get(values.dtype.name) != scheme.bits or len(values.shape) != 2:
        allowed = "int8" if scheme.bits == 8 else "uint8"
        raise CheckpointError(
            f"{VALUES} is {values.dtype.name} {list(values.shape)}", where=where,
            allowed=f"{allowed} with two axes for the {scheme.bits} bits the header says",
        )  # fmt: skip
    rows, cols = values.shape[0], values.shape[1] * per_byte
    if cols % scheme.group:
        raise CheckpointError(
            f"{cols} columns in groups of {scheme.group}", where=where,
            allowed="a group that divides the columns",
        )  # fmt: skip
    found = QuantizedTensor(name, scheme, (rows, cols))
    shape = (rows, cols // scheme.group)
    for part in found.parts[1:]:
        kind = "uint8" if part.endswith(ZEROS) else "float16"
        stored = tensors.get(part)
        if stored is None:
            raise CheckpointError(
                f"has no {part.removeprefix(name)}", where=where,
                fix="convert the weights again with convert_weight.py --quantization",
            )  # fmt: skip
        if stored.dtype.name != kind or stored.shape != shape:
            raise CheckpointError(
                f"{part.removeprefix(name)} is {stored.dtype.name} {list(stored.shape)}",
                where=where,
                allowed=f"{kind} {list(shape)}, for the groups of {scheme.group} the header says",
            )
    return found
