"""Step folders: sets of files that count only together, committed by one rename.

A step is written under a hidden name and becomes visible at once, so a process killed at any moment
leaves the earlier steps as they were. What the files hold is the business of their writers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mindformers.checkpoint import atomic
from mindformers.checkpoint.step_format import (
    MANIFEST_NAME,
    Manifest,
    check_files,
    file_sha256,
    read_manifest,
)
from mindformers.errors import CheckpointError
from mindformers.logger import logger

REPLACED_SUFFIX = ".replaced"  # the older of two steps of one name, until it is removed

Writer = Callable[[Path], None]


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
    """Return (sort key, folder) of every committed step, oldest first; damaged ones are named."""
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
    plain = Path(name).name == name and bool(name)
    if not plain or name.startswith(".") or name.endswith(REPLACED_SUFFIX):
        raise CheckpointError(f"{name!r} cannot name a step", allowed="a plain folder name")
    if target.exists() and not (target / MANIFEST_NAME).exists():
        raise CheckpointError(
            "exists and is not a step", where=str(target), fix="move it away or save elsewhere"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with atomic.temp_name(root / "step") as temp:
            temp.mkdir()
            commit_step(temp, target, write_files(temp, writers), dict(info))
    except OSError as error:
        raise atomic.write_error(error, target) from error
    return target


def write_files(temp: Path, writers: Mapping[str, Writer]) -> dict[str, tuple[int, str]]:
    """Write files of a step into its hidden folder and push them to the disk.

    Returns:
        Relative name -> (bytes, sha256).
    """
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
    for folder in sorted(folders, reverse=True):  # inner folders first
        atomic.sync_folder(folder)
    return files


def commit_step(
    temp: Path, target: Path, files: Mapping[str, tuple[int, str]], info: dict[str, Any]
) -> None:
    """Write the manifest of a hidden folder of files and make the step visible as ``target``."""
    serial = 1 + max((key[1] for key, _ in _scan(target.parent)), default=0)
    path = temp / MANIFEST_NAME
    path.write_text(Manifest(serial, dict(files), info).to_json(), encoding="utf-8")
    atomic.sync_file(path)
    atomic.sync_folder(temp)
    _commit(temp, target)


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
        with atomic.temp_name(folder.parent / "step") as hidden:
            folder.rename(hidden)


def keep_latest(root: str | Path, count: int, spared: Collection[str] = ()) -> list[Path]:
    """Remove the oldest steps beyond ``count``; return what was removed.

    The highest step and the one written last are never removed.

    Args:
        root: Folder of the steps.
        count: How many to keep; less than 1 keeps all.
        spared: Names of steps that stay whatever there is beside them; they are not counted.
    """
    every = _scan(Path(root))
    scanned = [entry for entry in every if entry[1].name not in spared]
    if count < 1 or len(scanned) <= count:
        return []
    written_last = max(every, key=lambda entry: entry[0][1])[1]
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
