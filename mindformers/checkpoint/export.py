"""What converting and exporting have in common: checks before work, the output and its files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindformers.checkpoint.atomic import write_bytes
from mindformers.checkpoint.json_file import read_json, write_json
from mindformers.checkpoint.manifest import clean_leftovers
from mindformers.checkpoint.saving import (
    Progress,
    check_output,
    no_progress,
    refuse_pickle_name,
    staged_folder,
    write_weights,
)
from mindformers.checkpoint.tensor_io import TensorToWrite
from mindformers.errors import ConfigError
from mindformers.logger import logger

VOCAB_FILE = "tokenizer.model"
TOKENIZER_FILES = (
    VOCAB_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
GENERATION_FILE = "generation_config.json"
_FORMATS = {"safetensors": ".safetensors", "ckpt": ".ckpt"}


@dataclass(frozen=True)
class ExportOptions:
    """How the result of a conversion is written.

    Attributes:
        output_format: ``safetensors`` or ``ckpt``; None: as the output path's suffix says.
        force: Replace an output that exists.
        max_shard_size: Largest file when the output is a folder.
        verify: Compare the sha256 of a step folder's files before reading them.
        tokenizer: A vocabulary file or a folder that holds one; None: what lies beside the input.
        start: Called with the bytes that will be written, before the first.
        progress: Called with the number of bytes just written.
    """

    output_format: str | None = None
    force: bool = False
    max_shard_size: str | int = "5GB"
    verify: bool = True
    tokenizer: str | Path | None = None
    start: Progress = field(default=no_progress)
    progress: Progress = field(default=no_progress)


def may_be_in_weight_folder(name: str) -> bool:
    """Tell whether a folder of weights can hold a file of this name, so that it may be replaced."""
    if name in TOKENIZER_FILES or name in ("config.json", GENERATION_FILE):
        return True
    return name.endswith((".safetensors", ".safetensors.index.json", ".ckpt"))


def check_output_path(path: str | Path, options: ExportOptions) -> Path:
    """Return where the weights go: a folder, a ``.safetensors`` or a ``.ckpt``; check it is free.

    Raises:
        CheckpointError: If it exists and may not be replaced, or is to be a pickle.
        ConfigError: If the format contradicts the suffix.
    """
    path = Path(path)
    refuse_pickle_name(path)
    wanted = options.output_format
    if wanted is not None and wanted not in _FORMATS:
        raise ConfigError(f"output format {wanted!r}", allowed=" or ".join(_FORMATS))
    if wanted and path.suffix in set(_FORMATS.values()) - {_FORMATS[wanted]}:
        raise ConfigError(f"output format {wanted} for a path with suffix {path.suffix}")
    check_output(path, options.force, may_be_in_weight_folder)
    if path.parent.is_dir():
        clean_leftovers(path.parent)
    return path


def is_folder(path: Path) -> bool:
    """Tell whether an output path means a folder."""
    return path.suffix not in _FORMATS.values()


def copy_files(source: Path, folder: Path, names: Iterable[str] = TOKENIZER_FILES) -> list[str]:
    """Copy those of the named files that ``source`` has; return their names."""
    found = [name for name in names if (source / name).is_file()]
    for name in found:
        write_bytes(folder / name, (source / name).read_bytes())
    return found


def carry_files(
    source: Path, folder: Path, generation: dict[str, Any], tokenizer: str | Path | None = None
) -> list[str]:
    """Copy the tokenizer, its template and the generation settings along; return the names.

    Args:
        source: Folder of the weights that were converted.
        folder: Folder being written.
        generation: What ``generation_config.json`` must say: the ids that end an answer, the pad
            id. The source's file wins where it says so itself.
        tokenizer: As in ``ExportOptions``.
    """
    given = Path(source if tokenizer is None else tokenizer)
    if tokenizer is not None and given.is_file() and given.suffix != ".json":
        carried = [write_bytes(folder / VOCAB_FILE, given.read_bytes()).name]
    else:  # the template of a tokenizer.json stands in the files beside it
        carried = copy_files(given.parent if given.is_file() else given, folder)
    own = read_json(source / GENERATION_FILE) if (source / GENERATION_FILE).is_file() else {}
    settings = {**generation, **{key: value for key, value in own.items() if value is not None}}
    if settings:
        write_json(folder / GENERATION_FILE, settings)
        carried.append(GENERATION_FILE)
    if VOCAB_FILE not in carried and "tokenizer.json" not in carried:
        logger.warning(
            "no tokenizer beside %s: copy tokenizer.model (or tokenizer.json) and tokenizer_config.json to the output",
            source,
        )
    return carried


def export(
    path: Path,
    tensors: Sequence[TensorToWrite],
    options: ExportOptions,
    metadata: dict[str, str],
    add_files: Callable[[Path], object],
) -> Path:
    """Write the result of a conversion; an interruption leaves nothing.

    Args:
        path: From ``check_output_path``.
        tensors: The weights.
        options: How to write.
        metadata: Text for the headers of safetensors files.
        add_files: Writes what belongs beside the weights, when the output is a folder.

    Returns:
        The output path.
    """
    options.start(sum(tensor.bytes for tensor in tensors))
    if not is_folder(path):
        write_weights(path, tensors, metadata=metadata, progress=options.progress)
        return path
    with staged_folder(path) as folder:
        target = folder / "model.ckpt" if options.output_format == "ckpt" else folder
        write_weights(target, tensors, options.max_shard_size, metadata, options.progress)
        add_files(folder)
    return path
