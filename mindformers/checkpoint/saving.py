"""Writing weights: one file, or shards with an index; and folders that appear whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mindformers.checkpoint import atomic
from mindformers.checkpoint.ckpt_io import write_ckpt
from mindformers.checkpoint.json_file import write_json
from mindformers.checkpoint.tensor_file import PICKLE_SUFFIXES
from mindformers.checkpoint.tensor_io import TensorToWrite, write_safetensors
from mindformers.errors import CheckpointError, ConfigError

SHARD_STEM = "model"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

_WRITTEN = re.compile(SHARD_STEM + r"(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")

Progress = Callable[[int], None]


def no_progress(_: int) -> None:
    """Take the number of bytes just written and do nothing with it."""


def parse_size(text: str | int, where: str = "max_shard_size") -> int:
    """Return the bytes that ``5GB``, ``800 MiB`` or a plain number mean.

    Args:
        text: The size.
        where: What it was given as, for the error.

    Raises:
        ConfigError: If it is no size of at least one byte.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    unit = _UNITS.get(match[2].upper()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size < 1:
        raise ConfigError(
            f"size {text!r}", where=where, allowed="a number with MB, GB, MiB or GiB, as in 5GB"
        )
    return size


def split_into_shards(tensors: Sequence[TensorToWrite], limit: int) -> list[list[TensorToWrite]]:
    """Return the tensors in groups of at most ``limit`` bytes; a larger one is alone."""
    shards: list[list[TensorToWrite]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.bytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.bytes
    return shards


def write_shards(
    folder: Path,
    tensors: Sequence[TensorToWrite],
    max_shard_size: str | int = "5GB",
    metadata: Mapping[str, str] | None = None,
    progress: Progress = no_progress,
) -> list[Path]:
    """Write ``model.safetensors``, or ``model-00001-of-0000N.safetensors`` and their index.

    Weight files of an earlier save that are not part of this one are removed at the end.

    Args:
        folder: Made when missing.
        tensors: What to write, in this order.
        max_shard_size: Largest shard; a tensor that is larger has a shard of its own.
        metadata: Text for each file's header.
        progress: Called with the number of bytes just written.

    Returns:
        The weight files.
    """
    shards = split_into_shards(tensors, parse_size(max_shard_size))
    atomic.require_space(folder / SHARD_STEM, sum(tensor.bytes for tensor in tensors))
    count = len(shards)
    index_path = folder / f"{SHARD_STEM}.safetensors.index.json"
    paths = []
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        part = f"-{number:05d}-of-{count:05d}" if count > 1 else ""
        path = folder / f"{SHARD_STEM}{part}.safetensors"
        paths.append(write_safetensors(path, shard, metadata, progress))
        weight_map.update({tensor.name: path.name for tensor in shard})
    if count > 1:
        total = sum(tensor.bytes for tensor in tensors)
        content = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(index_path, content)
    kept = {*paths, index_path} if count > 1 else set(paths)
    for stale in folder.iterdir():
        if _WRITTEN.fullmatch(stale.name) and stale not in kept:
            stale.unlink()
    return paths


def write_weights(
    path: str | Path,
    tensors: Iterable[TensorToWrite],
    max_shard_size: str | int = "5GB",
    metadata: Mapping[str, str] | None = None,
    progress: Progress = no_progress,
) -> list[Path]:
    """Write weights as the path says: a ``.ckpt``, a ``.safetensors``, else a directory.

    Returns:
        The weight files.

    Raises:
        CheckpointError: If the path has another file suffix, or the system refuses the write.
    """
    path = Path(path)
    queue = list(tensors)
    if path.suffix == ".ckpt":
        return [write_ckpt(path, queue, progress)]
    if path.suffix == ".safetensors":
        return [write_safetensors(path, queue, metadata, progress)]
    refuse_pickle_name(path)
    return write_shards(path, queue, max_shard_size, metadata, progress)


def refuse_pickle_name(path: Path) -> None:
    """Raise a CheckpointError for an output whose name asks for a pickle."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise CheckpointError(
            "pickle files are not written",
            where=str(path),
            allowed="a folder, .safetensors or .ckpt",
            fix="leave the suffix out to get a Hugging Face directory",
        )


def check_output(path: Path, force: bool, ours: Callable[[str], bool]) -> None:
    """Refuse to write over something, before any work is done.

    Args:
        path: The output file or folder.
        force: Whether the user allowed it.
        ours: Tells from a file's name whether a folder of weights may hold it; a folder with
            anything else in it is not replaced even with ``force``.

    Raises:
        CheckpointError: If the output exists and may not be replaced.
    """
    if not path.exists():
        return
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        strange = [name for name in names if not ours(name) or (path / name).is_dir()]
        if not names:
            return
        if force and strange:
            raise CheckpointError(
                f"holds files that are no weights: {', '.join(strange[:4])}",
                where=str(path),
                fix="choose another output path",
            )
    if not force:
        raise CheckpointError(
            "exists already", where=str(path), fix="choose another output path or give --force"
        )


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``path``; it becomes ``path`` on success, vanishes on error.

    A folder that stands at ``path`` is replaced; check first that it may be.

    Raises:
        CheckpointError: If the system refuses a write.
    """
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.temp_name(path.parent / "folder") as temp:
            temp.mkdir()
            yield temp
            atomic.sync_folder(temp)
            with atomic.temp_name(path.parent / "folder") as replaced:
                _swap(temp, path, replaced)
    except OSError as error:
        raise atomic.write_error(error, path) from error


def _swap(new: Path, path: Path, replaced: Path) -> None:
    """Put ``new`` at ``path``; what stood there goes to ``replaced`` and returns if that fails."""
    if path.exists():
        path.rename(replaced)
    try:
        new.rename(path)
    except OSError:
        if replaced.exists():
            replaced.rename(path)
        raise
    atomic.sync_folder(path.parent)
