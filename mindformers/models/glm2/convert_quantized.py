"""Weights in any layout to a directory of int8 or int4 weights under our names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindformers.checkpoint.dtypes import BY_NAME, is_finite, not_finite
from mindformers.checkpoint.export import ExportOptions
from mindformers.checkpoint.keymap import Stored, plan_tensor
from mindformers.checkpoint.quantized import QuantizedMatrix, quantize
from mindformers.checkpoint.quantized_files import METADATA_KEY, SCALES, VALUES, ZEROS
from mindformers.checkpoint.tensor_io import TensorToWrite
from mindformers.errors import CheckpointError
from mindformers.logger import logger
from mindformers.models.glm2.conversion import Conversion, open_conversion, refuse_ckpt
from mindformers.models.glm2.glm2_calibration import CalibrationWalk, layer_of
from mindformers.models.glm2.glm2_native import EMBEDDING, HEAD
from mindformers.models.glm2.glm2_quantized import description_of
from mindformers.models.glm2.glm2_weights import file_metadata, layout_named

_ELEMENTS = 2**22  # rounded at once


@dataclass(frozen=True)
class QuantizeOptions:
    """What is rounded, and how.

    Attributes:
        kind: ``int8`` or ``int4``.
        group: Columns that share a scale; None: 64 with int8, 32 with int4.
        symmetric: False: int4 gets a zero point for each group.
        head: ``int8``, ``int4`` or ``none`` for the output layer.
        embedding: The same for the embedding.
        rows: Ids of calibration rows; empty: each weight is rounded to nearest.
    """

    kind: str
    group: int | None = None
    symmetric: bool = True
    head: str = "int8"
    embedding: str = "none"
    rows: Sequence[NDArray[np.int32]] = ()


def convert_quantized(
    input_path: str | Path,
    output_path: str | Path,
    wanted: QuantizeOptions,
    *,
    config: str | Path | None = None,
    options: ExportOptions | None = None,
) -> Path:
    """Round the weights of a directory or file, in any layout, one matrix at a time.

    Args:
        input_path: What ``open_weights`` takes.
        output_path: A folder or a ``.safetensors`` file.
        wanted: What to round, and how.
        config: YAML of a run; None: the ``config.json`` beside the input.
        options: How to write.

    Returns:
        The output path.

    Raises:
        MindFormersError: If the input cannot be read or rounded, or the output may not be written.
    """
    options = options or ExportOptions()
    refuse_ckpt("quantized weights", output_path, options)
    with open_conversion(input_path, output_path, config, options) as work:
        if work.source.description is not None:
            raise CheckpointError(
                "is quantized already",
                where=str(input_path),
                fix="give the weights it was made from",
            )
        settings, target = work.settings, layout_named("mindformers", work.settings)
        settings.update(
            quantization=wanted.kind, quantization_group=wanted.group,
            quantization_head=wanted.head, quantization_embedding=wanted.embedding,
        )  # fmt: skip
        rounding = _Rounding(work, work.stored(target), wanted)
        tensors = list(rounding.tensors())
        work.check_tokenizer()
        logger.info("rounding %s to %s, %s", input_path, work.output, rounding.description.scheme)
        described = {METADATA_KEY: json.dumps(rounding.description.to_dict())}
        metadata = {**file_metadata(target, settings), **described}
        return work.write(tensors, metadata, settings.save_pretrained)


class _Rounding:
    """The tensors of the output; each matrix is rounded when the first of its tensors is written."""

    def __init__(self, work: Conversion, stored: list[Stored], wanted: QuantizeOptions):
        self.work, self.stored, self.rows = work, stored, wanted.rows
        self.plans = {each.name: plan_tensor(each, work.mapped.places) for each in stored}
        shapes = {each.name: each.shape for each in stored}
        self.description = description_of(work.settings, shapes, wanted.symmetric)
        self.walk: CalibrationWalk | None = None
        self.layer = -1
        self.ready: dict[str, QuantizedMatrix] = {}

    def tensors(self) -> Iterator[TensorToWrite]:
        """Yield what to write, in order: a rounded weight is two or three tensors."""
        plain = [each for each in self.stored if not self._is_rounded(each)]
        kept = {tensor.name: tensor for tensor in self.work.tensors(plain)}
        for each in self.stored:
            if each.name in kept:
                yield kept[each.name]
            else:
                yield from self._parts(each)

    def _is_rounded(self, stored: Stored) -> bool:
        return len(stored.shape) > 1 and stored.name not in self.description.excluded

    def _parts(self, stored: Stored) -> Iterator[TensorToWrite]:
        scheme, name = self.description.scheme_of(stored.name), stored.name
        rows, cols = stored.shape
        groups = cols // scheme.group
        per_byte = 8 // scheme.bits
        kinds = [(VALUES, "int8" if scheme.bits == 8 else "uint8", cols // per_byte)]
        kinds.append((SCALES, "float16", groups))
        if not scheme.symmetric:
            kinds.append((ZEROS, "uint8", groups))
        for index, (end, kind, width) in enumerate(kinds):
            is_last = index == len(kinds) - 1
            yield TensorToWrite(
                name + end,
                BY_NAME[kind],
                (rows, width),
                lambda end=end, is_last=is_last: self._part(name, end, is_last),  # type: ignore[misc]
            )

    def _part(self, name: str, end: str, is_last: bool) -> np.ndarray:
        if name not in self.ready:
            self._round(name)
        matrix = self.ready[name]
        if is_last:
            del self.ready[name]
        found = {VALUES: matrix.values, SCALES: matrix.scales, ZEROS: matrix.zeros}[end]
        assert found is not None
        return found

    def _round(self, name: str) -> None:
        """Round a weight; with calibration rows, its whole layer."""
        if not self.rows or name == EMBEDDING:
            self.ready[name] = self._to_nearest(name)
            return
        if self.walk is None:
            self.walk = CalibrationWalk(
                self.work.settings, self.read, self.read(EMBEDDING), self.rows
            )
        layer = layer_of(name)
        while self.layer < (self.work.settings.num_layers - 1 if layer is None else layer):
            self.layer += 1
            logger.info("layer %d of %d", self.layer + 1, self.work.settings.num_layers)
            self.ready.update(self.walk.next_layer(self.layer, self.description))
        if name == HEAD:
            self.ready[name] = self.walk.round_head(name, self.description)

    def _to_nearest(self, name: str) -> QuantizedMatrix:
        scheme = self.description.scheme_of(name)
        matrix = self.read(name)
        step = max(1, _ELEMENTS // matrix.shape[1])
        done = [
            quantize(matrix[first : first + step], scheme, name)
            for first in range(0, len(matrix), step)
        ]
        zeros = (
            None
            if scheme.symmetric
            else np.concatenate([d.zeros for d in done if d.zeros is not None])
        )
        return QuantizedMatrix(
            np.concatenate([each.values for each in done]),
            np.concatenate([each.scales for each in done]),
            zeros,
        )

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a weight under our name in float32.

        Raises:
            CheckpointError: If it holds NaN or Inf.
        """
        blocks = [
            block.astype(np.float32)
            for rows in self.plans[name]
            for block in self.work.source.blocks(rows.name, rows.start, rows.stop)
        ]
        whole = np.concatenate(blocks)
        if not is_finite(whole):
            raise not_finite(self.work.source.where(self.plans[name][0].name))
        return whole
