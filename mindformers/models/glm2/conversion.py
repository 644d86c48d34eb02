"""What the converters share: the source and what network it is of, and how its weights are written otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mindformers.checkpoint.dtypes import StoredType
from mindformers.checkpoint.export import (
    ExportOptions,
    carry_files,
    check_output_path,
    export,
    is_folder,
)
from mindformers.checkpoint.keymap import Stored
from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.naming import Layout, MappedSource
from mindformers.checkpoint.tensor_io import TensorToWrite
from mindformers.checkpoint.transfer import tensors_in_layout
from mindformers.checkpoint.weight_source import WeightSource
from mindformers.errors import ConfigError
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_weights import map_source, stored_tensors
from mindformers.models.glm2.hf_config import generation_settings, is_tied, network_config
from mindformers.models.glm2.tokenizer_choice import check_vocabulary, describe_tokenizer


@dataclass
class Conversion:
    """Weights that are read, and where they go.

    Attributes:
        input_path: What was asked to be converted.
        source: The weights that are there, open.
        output: A folder or a file, free to be written.
        options: How to write.
        config: YAML of a run; None: the ``config.json`` beside the input.
    """

    input_path: Path
    source: WeightSource
    output: Path
    options: ExportOptions
    config: str | Path | None

    @cached_property
    def settings(self) -> ChatGLM2Config:
        """The network's settings."""
        return network_config(self.source.config(), self.source.config_where(), self.config)

    @cached_property
    def mapped(self) -> MappedSource:
        """Where the network's pieces lie in the source."""
        return map_source(
            self.settings,
            self.source.shapes,
            tied=is_tied(self.source.config()),
            where=str(self.input_path),
        )

    def stored(self, layout: Layout) -> list[Stored]:
        """Return the tensors that a layout has of this network."""
        return stored_tensors(self.settings, layout)

    def tensors(self, stored: list[Stored], dtype: StoredType | None = None) -> list[TensorToWrite]:
        """Return what is written of the source for some tensors; ``dtype`` None: in the source's types."""
        return tensors_in_layout(
            stored,
            self.mapped.places,
            self.source.blocks,
            dtype_of=lambda name: self.source.tensors[name].dtype,
            dtype=dtype,
        )

    def check_tokenizer(self) -> None:
        """Refuse a vocabulary that cannot go into the output folder, before anything is written."""
        if is_folder(self.output):
            check_vocabulary(self._tokenizer)

    def write(
        self,
        tensors: list[TensorToWrite],
        metadata: Mapping[str, str],
        write_config: Callable[[Path], object],
    ) -> Path:
        """Write the output; a folder gets its settings, those of generation and the tokenizer too.

        Args:
            tensors: The weights.
            metadata: Text for the headers of the files.
            write_config: Puts ``config.json`` into a folder.

        Returns:
            The output path.
        """

        def add_files(folder: Path) -> None:
            write_config(folder)
            generation = generation_settings(self.settings)
            carry_files(self.source.folder, folder, generation, self.options.tokenizer)
            describe_tokenizer(folder, self._tokenizer)

        return export(self.output, tensors, self.options, dict(metadata), add_files)

    @property
    def _tokenizer(self) -> Path:
        return Path(self.options.tokenizer or self.source.folder)


@contextmanager
def open_conversion(
    input_path: str | Path,
    output_path: str | Path,
    config: str | Path | None,
    options: ExportOptions,
) -> Iterator[Conversion]:
    """Open the weights of a conversion once its output is known to be free.

    Raises:
        MindFormersError: If the input is no weights, or the output may not be written.
    """
    output = check_output_path(output_path, options)
    with open_weights(input_path, options.verify) as source:
        yield Conversion(Path(input_path), source, output, options, config)


def refuse_ckpt(what: str, output_path: str | Path, options: ExportOptions) -> None:
    """Refuse a ``.ckpt`` for what only safetensors hold.

    Raises:
        ConfigError: Naming ``what``.
    """
    if options.output_format == "ckpt" or Path(output_path).suffix == ".ckpt":
        raise ConfigError(f"{what} as .ckpt", allowed="safetensors")
