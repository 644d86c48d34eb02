"""Weights in any layout to a directory of int8 or int4 weights under our names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindformers.checkpoint.dtypes import BY_NAME, is_finite, not_finite
from mindformers.checkpoint.export import (
    ExportOptions,
    carry_files,
    check_output_path,
    export,
    is_folder,
)
from mindformers.checkpoint.keymap import Rows, Stored, plan_tensor
from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.quantized import QuantizedMatrix, quantize
from mindformers.checkpoint.quantized_files import METADATA_KEY, SCALES, VALUES, ZEROS, Description
from mindformers.checkpoint.tensor_io import TensorToWrite
from mindformers.checkpoint.transfer import tensors_in_layout
from mindformers.checkpoint.weight_source import WeightSource
from mindformers.errors import CheckpointError, ConfigError
from mindformers.logger import logger
from mindformers.models.glm2.glm2_calibration import CalibrationWalk, layer_of
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_native import EMBEDDING, HEAD
from mindformers.models.glm2.glm2_quantized import description_of
from mindformers.models.glm2.glm2_weights import (
    file_metadata,
    layout_named,
    map_source,
    stored_tensors,
)
from mindformers.models.glm2.hf_config import generation_settings, is_tied, network_config
from mindformers.models.glm2.tokenizer_choice import check_vocabulary, describe_tokenizer

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
    if options.output_format == "ckpt" or Path(output_path).suffix == ".ckpt":
        raise ConfigError("quantized weights as .ckpt", allowed="safetensors")
    output = check_output_path(output_path, options)
    with open_weights(input_path, options.verify) as source:
        if source.description is not None:
            raise CheckpointError(
                "is quantized already",
                where=str(input_path),
                fix="give the weights it was made from",
            )
        content = source.config()
        settings = network_config(content, source.config_where(), config)
        settings.update(
            quantization=wanted.kind, quantization_group=wanted.group,
            quantization_head=wanted.head, quantization_embedding=wanted.embedding,
        )  # fmt: skip
        mapped = map_source(settings, source.shapes, tied=is_tied(content), where=str(input_path))
        target = layout_named("mindformers", settings)
        stored = stored_tensors(settings, target)
        shapes = {each.name: each.shape for each in stored}
        description = description_of(settings, shapes, wanted.symmetric)
        rounding = _Rounding(settings, source, stored, mapped.places, description, wanted.rows)
        tensors = list(rounding.tensors())
        if is_folder(output):
            check_vocabulary(Path(options.tokenizer or source.folder))

        def add_files(folder: Path) -> None:
            settings.save_pretrained(folder)
            carry_files(source.folder, folder, generation_settings(settings), options.tokenizer)
            describe_tokenizer(folder, Path(options.tokenizer or source.folder))

        logger.info("rounding %s to %s, %s", input_path, output, description.scheme)
        metadata = {
            **file_metadata(target, settings),
            METADATA_KEY: json.dumps(description.to_dict()),
        }
        return export(output, tensors, options, metadata, add_files)


class _Rounding:
    """The tensors of the output; each matrix is rounded when the first of its tensors is written."""

    def __init__(
        self,
        config: ChatGLM2Config,
        source: WeightSource,
        stored: list[Stored],
        places: Mapping[str, Rows],
        description: Description,
        rows: Sequence[NDArray[np.int32]],
    ):
        self.config, self.source, self.description = config, source, description
        self.stored, self.places = stored, places
        self.plans = {each.name: plan_tensor(each, places) for each in stored}
        self.walk: CalibrationWalk | None = None
        self.rows = rows
        self.layer = -1
        self.ready: dict[str, QuantizedMatrix] = {}

    def tensors(self) -> Iterator[TensorToWrite]:
        """Yield what to write, in order: a rounded weight is two or three tensors."""
        plain = [each for each in self.stored if not self._is_rounded(each)]
        kept = {
            tensor.name: tensor
            for tensor in tensors_in_layout(
                plain,
                self.places,
                self.source.blocks,
                dtype_of=lambda name: self.source.tensors[name].dtype,
            )
        }
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
            self.walk = CalibrationWalk(self.config, self.read, self.read(EMBEDDING), self.rows)
        layer = layer_of(name)
        while self.layer < (self.config.num_layers - 1 if layer is None else layer):
            self.layer += 1
            logger.info("layer %d of %d", self.layer + 1, self.config.num_layers)
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
            for block in self.source.blocks(rows.name, rows.start, rows.stop)
        ]
        whole = np.concatenate(blocks)
        if not is_finite(whole):
            raise not_finite(self.source.where(self.plans[name][0].name))
        return whole
