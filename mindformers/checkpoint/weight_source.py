"""Open weights as one mapping of names, whatever the files behind it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mindformers.checkpoint.json_file import parse_object, read_json
from mindformers.checkpoint.quantized_files import (
    METADATA_KEY,
    quantized_tensors,
    read_description,
)
from mindformers.checkpoint.tensor_file import StoredTensor, TensorFile
from mindformers.config.loader import load_yaml
from mindformers.errors import CheckpointError

CONFIG_KEY = "model_config"  # in the header of files we write: the network's config.json


class WeightSource:
    """Open weights: one mapping of names over one or more files. Use it as a context manager.

    Quantized weights appear as float32 ones and are restored as they are read.

    Attributes:
        path: What was opened.
        folder: Where ``config.json`` and the tokenizer of these weights would lie.
        tensors: Name -> where it lies, in file order.
        description: How weights are quantized; None: none are.
        quantized: Name -> what is stored of it, for quantized weights.
    """

    def __init__(self, path: Path, files: list[TensorFile]):
        self.path = path
        self.folder = path if path.is_dir() else path.parent
        self.files = files
        self._owner: dict[str, TensorFile] = {}
        self.tensors: dict[str, StoredTensor] = {}
        for file in files:
            for name, tensor in file.tensors.items():
                if name in self._owner:
                    raise CheckpointError(
                        f"tensor {name!r} is in {self._owner[name].path.name} and {file.path.name}",
                        where=str(path),
                        fix="remove the file that does not belong to this model",
                    )
                self._owner[name] = file
                self.tensors[name] = tensor
        metadata = next((f.metadata for f in files if METADATA_KEY in f.metadata), {})
        self.description = read_description(metadata, str(path))
        self.quantized = quantized_tensors(self.tensors, self.description, str(path))
        for name, found in self.quantized.items():
            self._owner[name] = self._owner[found.parts[0]]
            self.tensors[name] = found.as_float()
            for part in found.parts:
                del self.tensors[part]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> axes of every tensor."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def where(self, name: str) -> str:
        """Return ``file: tensor`` for error messages."""
        return f"{self._owner[name].path}: {name}"

    def read_into(self, name: str, start_row: int, out: np.ndarray) -> None:
        """Fill a contiguous array with consecutive rows, bytes unchanged."""
        found = self.quantized.get(name)
        if found is None:
            self._owner[name].read_into(name, start_row, out)
            return
        rows = out.reshape(-1, found.shape[1])
        for block in found.blocks(self._read_rows, start_row, start_row + len(rows)):
            rows[: len(block)], rows = block, rows[len(block) :]

    def _read_rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return np.concatenate(list(self._owner[name].blocks(name, start, stop)))

    def blocks(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Yield rows ``start`` to ``stop`` (all by default) in blocks."""
        found = self.quantized.get(name)
        if found is None:
            return self._owner[name].blocks(name, start, stop)
        return found.blocks(self._read_rows, start, found.shape[0] if stop is None else stop)

    def read(self, name: str) -> np.ndarray:
        """Return a whole tensor."""
        if name in self.quantized:
            return np.concatenate(list(self.blocks(name)))
        return self._owner[name].read(name)

    def config(self) -> dict[str, Any] | None:
        """Return what is known of the network the weights belong to, or None.

        That is the ``config.json`` beside them, what their file says of itself, or
        ``model.model_config`` in the ``config.yaml`` that a training run saves with each step.
        """
        return self._configuration[0]

    def config_where(self) -> str:
        """Return where ``config`` was found, or would be looked for, for errors."""
        return self._configuration[1]

    @cached_property
    def _configuration(self) -> tuple[dict[str, Any] | None, str]:
        path, run = self.folder / "config.json", self.folder / "config.yaml"
        if path.is_file():
            return read_json(path), str(path)
        for file in self.files:
            if CONFIG_KEY in file.metadata:
                return parse_object(file.metadata[CONFIG_KEY], str(file.path)), str(file.path)
        model = load_yaml(run).data.get("model") if run.is_file() else None
        section = model.get("model_config") if isinstance(model, dict) else None
        return (section, str(run)) if isinstance(section, dict) else (None, str(path))

    def close(self) -> None:
        """Close every file."""
        for file in self.files:
            file.close()

    def __enter__(self) -> WeightSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
