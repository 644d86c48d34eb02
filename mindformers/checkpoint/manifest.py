"""Step folders: a set of files that count only together, each with its size and sha256.

A step is written under a hidden name and becomes visible by one rename, so a process killed at any
moment leaves the earlier steps as they were. What the files hold is the business of the writers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mindformers.checkpoint import atomic
from mindformers.errors import CheckpointError, did_you_mean
from mindformers.logger import logger

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1
REPLACED_SUFFIX = ".replaced"  # the older of two steps of one name, until it is removed

Writer = Callable[[Path], None]


@dataclass(frozen=True)
class Manifest:
    """What a committed step says of itself.

    Attributes:
        serial: Rank among the steps written under one root; later is higher.
        files: Relative file name -> (bytes, sha256 in hex).
        info: What the writer of the step stored (``step`` orders the steps).
    """

    serial: int
    files: dict[str, tuple[int, str]]
    info: dict[str, Any]

    def to_json(self) -> str:
        """Return the file's text; ``digest`` covers everything else in it."""
        content = {
            "version": FORMAT_VERSION,
            "serial": self.serial,
            "files": {name: list(entry) for name, entry in self.files.items()},
            "info": self.info,
        }
        return json.dumps({**content, "digest": _digest(content)}, indent=1, ensure_ascii=False)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as handle:
        return (
            hashlib.file_digest(handle, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else (_chunked_sha256(iter(lambda: handle.read(1 << 22), b"")))
        )


def _chunked_sha256(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json`` of a step folder; the files themselves are not looked at.

    Raises:
        CheckpointError: If it is missing, damaged, or of a later version of the format.
    """
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_bytes())
        stored = content.pop("digest")
        if content["version"] > FORMAT_VERSION:
            raise CheckpointError(
                f"format version {content['version']}",
                where=str(path),
                allowed=str(FORMAT_VERSION),
                fix="read it with a newer release",
            )
        if stored != _digest(content):
            raise ValueError("its digest does not match")
        files = {name: (int(size), str(sha)) for name, (size, sha) in content["files"].items()}
        return Manifest(int(content["serial"]), files, dict(content["info"]))
    except FileNotFoundError as error:
        raise CheckpointError(
            "is not a committed step: it has no manifest.json", where=str(folder)
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"damaged: {error}", where=str(path), fix="use an older step"
        ) from error


def check_files(
    folder: Path, manifest: Manifest, names: Iterable[str] | None = None, verify: bool = True
) -> None:
    """Check that files of a step are what was written.

    Args:
        folder: The step folder.
        manifest: Its manifest.
        names: The files to look at; all of them when None.
        verify: Compare the sha256 too; else only that the file is there with its size.

    Raises:
        CheckpointError: If a file is missing, has another size or another content.
    """
    for name in manifest.files if names is None else names:
        if name not in manifest.files:
            raise CheckpointError(
                f"the manifest lists no file {name!r}",
                where=str(folder),
                fix=did_you_mean(name, manifest.files),
            )
        size, sha256 = manifest.files[name]
        path = folder / name
        try:
            found = path.stat().st_size
        except OSError as error:
            raise CheckpointError(
                f"missing ({error.strerror})", where=str(path), fix="use an older step"
            ) from error
        if found != size:
            raise CheckpointError(
                f"has {found} bytes, the manifest says {size}",
                where=str(path),
                fix="use an older step",
            )
        if verify and file_sha256(path) != sha256:
            raise CheckpointError(
                "sha256 mismatch: its content changed since it was saved",
                where=str(path),
                fix="use an older step or copy the file again",
            )


def read_step_folder(path: str | Path, verify: bool = True) -> dict[str, Any]:
    """Check a step folder and return the ``info`` it was written with.

    Raises:
        CheckpointError: If it is no committed step or one of its files is missing or changed.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    check_files(folder, manifest, verify=verify)
    return manifest.info


def _order(folder: Path, manifest: Manifest) -> tuple[int, int]:
    """Sort key: the training step, then the later written."""
    step = manifest.info.get("step")
    if not isinstance(step, int):
        digits = re.findall(r"\d+", folder.name)
        step = int(digits[-1]) if digits else -1
    return step, manifest.serial


def _scan(root: Path) -> list[tuple[tuple[int, int], Path]]:
    """Return (sort key, folder) of every committed step, oldest first; damaged ones are named once."""
    found = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.name.startswith(".") or not (folder / MANIFEST_NAME).is_file():
            continue
        try:
            manifest = read_manifest(folder)
            check_files(folder, manifest, verify=False)
        except CheckpointError as error:
            logger.warning("step %s is skipped: %s", folder.name, error)
            continue
        found.append((_order(folder, manifest), folder))
    return sorted(found)


def committed_steps(root: str | Path) -> list[Path]:
    """Return the whole steps under ``root``, oldest first: by ``info['step']``, then as written.

    Leftovers of a killed save, files that are no step and damaged steps are not among them.
    """
    return [folder for _, folder in _scan(Path(root))]


def latest_step(root: str | Path, verify: bool = True) -> Path | None:
    """Return the highest step whose files are as written, or None; the choice is logged.

    A step that fails the check is named in a warning and the next lower one is tried. Pointer files
    are not needed and not read.
    """
    steps = committed_steps(root)
    for folder in reversed(steps):
        try:
            read_step_folder(folder, verify=verify)
        except CheckpointError as error:
            logger.warning("step %s is skipped: %s", folder.name, error)
            continue
        logger.info(
            "chosen: %s, the highest valid of %d steps under %s", folder.name, len(steps), root
        )
        return folder
    return None


def write_step_folder(
    root: str | Path, name: str, writers: Mapping[str, Writer], info: Mapping[str, Any]
) -> Path:
    """Write a step: all its files and a manifest, visible under ``root / name`` at once or never.

    Args:
        root: Folder of the steps; made when missing.
        name: The step's folder name. A step of that name is replaced; it stays until the new one is
            committed.
        writers: Relative file name -> function that writes the file at the path it is given.
        info: JSON values stored in the manifest; ``step`` (int) orders the steps.

    Returns:
        The committed folder.

    Raises:
        CheckpointError: If the system refuses a write, or ``name`` is a folder that is no step.
    """
    root = Path(root)
    target = root / name
    json.dumps(dict(info))  # a value JSON cannot hold fails before anything is written
    if Path(name).name != name or name.startswith(".") or name.endswith(REPLACED_SUFFIX):
        raise CheckpointError(f"{name!r} cannot name a step", allowed="a plain folder name")
    if target.exists() and not (target / MANIFEST_NAME).exists():
        raise CheckpointError(
            "exists and is not a step", where=str(target), fix="move it away or save elsewhere"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        serial = 1 + max((key[1] for key, _ in _scan(root)), default=0)
        with atomic.temp_name(target.with_suffix("")) as temp:
            _fill(temp, writers, serial, dict(info))
            _commit(temp, target)
    except OSError as error:
        raise atomic.write_error(error, target) from error
    return target


def _fill(temp: Path, writers: Mapping[str, Writer], serial: int, info: dict[str, Any]) -> None:
    """Write every file and the manifest into the hidden folder and push them to the disk."""
    temp.mkdir()
    files = {}
    folders = {temp}
    for relative, write in writers.items():
        parts = PurePosixPath(relative)
        if parts.is_absolute() or ".." in parts.parts or relative == MANIFEST_NAME:
            raise CheckpointError(f"{relative!r} cannot name a file of a step")
        path = temp / parts
        path.parent.mkdir(parents=True, exist_ok=True)
        folders.add(path.parent)
        write(path)
        atomic.sync_file(path)
        files[relative] = (path.stat().st_size, file_sha256(path))
    manifest = temp / MANIFEST_NAME
    manifest.write_text(Manifest(serial, files, info).to_json(), encoding="utf-8")
    atomic.sync_file(manifest)
    for folder in sorted(folders, reverse=True):  # inner folders first
        atomic.sync_folder(folder)


def _commit(temp: Path, target: Path) -> None:
    """Make the filled folder visible; an older step of the name stays readable until then."""
    replaced = target.with_name(target.name + REPLACED_SUFFIX)
    if target.exists():
        _hide_and_remove(replaced)
        target.rename(replaced)
    temp.rename(target)
    atomic.sync_folder(target.parent)
    _hide_and_remove(replaced)


def _hide_and_remove(folder: Path) -> None:
    """Remove a step so that no moment shows half of it: hidden by a rename, then emptied."""
    if folder.exists():
        with atomic.temp_name(folder.with_suffix("")) as hidden:
            folder.rename(hidden)


def keep_latest(root: str | Path, count: int) -> list[Path]:
    """Remove the oldest steps beyond ``count``; return what was removed.

    The highest step and the one written last are never removed.

    Args:
        root: Folder of the steps.
        count: How many to keep; less than 1 keeps all.
    """
    scanned = _scan(Path(root))
    if count < 1 or len(scanned) <= count:
        return []
    written_last = max(scanned, key=lambda entry: entry[0][1])[1]
    victims = [folder for _, folder in scanned[:-1] if folder != written_last]
    victims = victims[: len(scanned) - count]
    for folder in victims:
        _hide_and_remove(folder)
    return victims


def clean_leftovers(root: str | Path) -> list[Path]:
    """Remove what killed saves and removals left under ``root``; return what was removed.

    A step that was being replaced when the process died gets its name back.
    """
    root = Path(root)
    removed = []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        if atomic.is_leftover(path):
            atomic.remove(path)
            removed.append(path)
        elif path.name.endswith(REPLACED_SUFFIX) and (path / MANIFEST_NAME).is_file():
            target = path.with_name(path.name[: -len(REPLACED_SUFFIX)])
            if target.exists():
                _hide_and_remove(path)
                removed.append(path)
            else:
                path.rename(target)
    for path in removed:
        logger.info("removed the leftover %s of an interrupted save", path)
    return removed
