"""Opening weights wherever they lie: one file, a directory of shards with an index, a step folder.

``open_weights`` hands out one mapping of tensors, whatever the files behind it; it never unpickles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mindformers.checkpoint.ckpt_io import CkptFile
from mindformers.checkpoint.json_file import read_json
from mindformers.checkpoint.manifest import committed_steps, latest_step
from mindformers.checkpoint.parts import STRATEGY_FILE, JoinedFile, read_strategy
from mindformers.checkpoint.step_format import MANIFEST_NAME, check_files, read_manifest
from mindformers.checkpoint.tensor_file import PICKLE_SUFFIXES, TensorFile
from mindformers.checkpoint.tensor_io import SafeFile
from mindformers.checkpoint.weight_source import WeightSource
from mindformers.errors import CheckpointError, did_you_mean

INDEX_NAMES = (
    "model.safetensors.index.json",
    "mindspore_model.safetensors.index.json",
    "mindspore_model.ckpt.index.json",
)
SINGLE_NAMES = ("model.safetensors", "mindspore_model.safetensors")
WEIGHT_FILES = "weight_files"  # in a step's manifest: the weights of every rank of a shared run
MAX_LINES = 12  # of a list in an error


def refuse_pickle(path: Path) -> None:
    """Raise for a file whose name says pickle; such a file can run any code when it is opened.

    Raises:
        CheckpointError: Always for ``.bin``, ``.pt``, ``.pth`` and ``.pkl``.
    """
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise CheckpointError(
            "is a pickle file; it is not opened, a pickle can run any code",
            where=str(path),
            allowed=".safetensors or MindSpore .ckpt",
            fix="save the weights as safetensors where they were made "
            "(save_pretrained(..., safe_serialization=True))",
        )


def open_file(path: Path) -> TensorFile:
    """Open one file by its suffix.

    Raises:
        CheckpointError: If it is a pickle, has another suffix or is damaged.
    """
    refuse_pickle(path)
    if path.suffix == ".safetensors":
        return SafeFile(path)
    if path.suffix == ".ckpt":
        return CkptFile(path)
    raise CheckpointError(
        f"unknown kind of file {path.suffix!r}", where=str(path), allowed=".safetensors or .ckpt"
    )


def open_weights(path: str | Path, verify: bool = True) -> WeightSource:
    """Open the weights at ``path``.

    Args:
        path: A ``.safetensors`` or ``.ckpt`` file; a directory with ``model.safetensors``, with
            shards and their index, or with exactly one weight file; a step folder, or a directory
            of step folders, whose highest valid one is taken; a directory with the one rank
            ``rank_0``.
        verify: For a step folder, compare the sha256 of the weight files first.

    Raises:
        CheckpointError: If nothing is there, the files are damaged, or it is unclear which to take.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError("does not exist", where=str(path), fix=_near_paths(path))
    if path.is_file():
        return WeightSource(path, [open_file(path)])
    ranks = sorted(entry for entry in path.glob("rank_*") if entry.is_dir())
    if (path / MANIFEST_NAME).is_file():
        return _open_step(path, verify)
    if committed_steps(path):
        step = latest_step(path, verify)
        if step is None:
            raise CheckpointError("none of the steps is valid", where=str(path))
        return open_weights(step, verify=False)
    if ranks and not any(path.glob("*.safetensors")):
        if len(ranks) > 1:
            raise CheckpointError(
                f"{len(ranks)} rank folders hold slices of a parallel run",
                where=str(path),
                allowed="whole weights, or the single folder rank_0",
            )
        return open_weights(ranks[0], verify)
    return _open_all(path, *_choose_files(path))


def _open_step(folder: Path, verify: bool) -> WeightSource:
    """Open a step folder: the file its manifest calls ``weights``, else as any folder."""
    manifest = read_manifest(folder)
    shared = manifest.info.get(WEIGHT_FILES)
    if shared:
        strategies = [str(Path(name).parent / STRATEGY_FILE) for name in shared]
        check_files(folder, manifest, [*shared, *strategies], verify)
        return WeightSource(folder, [open_joined(folder, shared)])
    named = manifest.info.get("weights")
    names, index = ([named], None) if isinstance(named, str) else _choose_files(folder)
    check_files(folder, manifest, names, verify)
    return _open_all(folder, names, index)


def open_joined(folder: Path, names: Sequence[str]) -> JoinedFile:
    """Open files of a step, one of each rank that has one, as a file of whole tensors.

    Args:
        folder: The step.
        names: The files, relative to it; a rank's ``strategy.json`` lies beside its own.

    Raises:
        CheckpointError: If a file is damaged or parts are missing.
    """
    opened: list[TensorFile] = []
    try:
        ranks = []
        for name in names:
            path = folder / name
            opened.append(open_file(path))
            strategy = path.parent / STRATEGY_FILE
            ranks.append((opened[-1], read_strategy(strategy) if strategy.is_file() else {}))
        return JoinedFile(folder, ranks)
    except BaseException:
        for file in opened:
            file.close()
        raise


def _near_paths(path: Path) -> str:
    folder = path.parent
    return did_you_mean(path.name, (p.name for p in folder.iterdir())) if folder.is_dir() else ""


def _choose_files(folder: Path) -> tuple[list[str], Mapping[str, str] | None]:
    """Return the weight files of a directory, and tensor -> file where an index says so."""
    for name in INDEX_NAMES:
        if (folder / name).is_file():
            return _read_index(folder, name)
    for name in SINGLE_NAMES:
        if (folder / name).is_file():
            return [name], None
    found = sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".ckpt"))
    found = [name for name in found if not name.startswith((".", "optimizer"))]
    if len(found) == 1:
        return found, None
    if found:
        raise CheckpointError(
            f"{len(found)} weight files and no index: {', '.join(found[:4])}",
            where=str(folder),
            allowed=f"{SINGLE_NAMES[0]}, or shards with {INDEX_NAMES[0]}",
            fix="name the file to load",
        )
    pickles = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in PICKLE_SUFFIXES]
    for pickle in pickles:
        refuse_pickle(pickle)
    raise CheckpointError(
        "holds no weights", where=str(folder), allowed=f"{SINGLE_NAMES[0]}, shards or a .ckpt"
    )


def _read_index(folder: Path, name: str) -> tuple[list[str], Mapping[str, str]]:
    """Read ``*.index.json``; every file it names must be there and lie in the same folder."""
    where = str(folder / name)
    weight_map = read_json(folder / name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("has no weight_map", where=where)
    files = sorted({str(file) for file in weight_map.values()})
    outside = [file for file in files if Path(file).name != file]
    if outside:
        raise CheckpointError(f"names a file elsewhere: {outside[0]!r}", where=where)
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        present = [p.name for p in folder.iterdir()]
        raise CheckpointError(
            f"{len(missing)} of {len(files)} shards are missing: {', '.join(missing[:8])}",
            where=where,
            fix=did_you_mean(missing[0], present) or "download them again",
        )
    return files, weight_map


def _open_all(folder: Path, names: Iterable[str], index: Mapping[str, str] | None) -> WeightSource:
    files: list[TensorFile] = []
    try:
        for name in names:
            files.append(open_file(folder / name))
        if index is not None:
            _check_index(folder, files, index)
        return WeightSource(folder, files)
    except BaseException:
        for file in files:
            file.close()
        raise


def _check_index(folder: Path, files: list[TensorFile], index: Mapping[str, str]) -> None:
    """Compare the index with what the shards hold; every difference is listed in one error."""
    held = {name: file.path.name for file in files for name in file.tensors}
    wrong = [name for name, file in index.items() if held.get(name) != file]
    extra = [name for name in held if name not in index]
    lines = []
    for name in wrong[:MAX_LINES]:
        hint = f"it is in {held[name]}" if name in held else did_you_mean(name, held)
        lines.append(f"  {name}: listed in {index[name]}, absent there; {hint}".rstrip("; "))
    lines += [f"  {name}: in {held[name]}, not listed" for name in extra[:MAX_LINES]]
    if lines:
        left = len(wrong) + len(extra) - len(lines)
        lines += [f"  ... and {left} more"] if left else []
        raise CheckpointError(
            f"the index and the shards disagree on {len(wrong) + len(extra)} tensors\n"
            + "\n".join(lines),
            where=str(folder),
        )
