"""A step folder that several processes fill: committed by the first one when every one has finished.

A process that cannot write tells the others, and nothing is committed; one that dies leaves a hidden folder,
which the next run removes, and the earlier steps as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mindformers.checkpoint import atomic, manifest
from mindformers.errors import CheckpointError


def write_shared_step(
    root: str | Path,
    name: str,
    writers: Mapping[str, manifest.Writer],
    info: Mapping[str, Any],
    group: Any,
) -> Path:
    """Write this process's files of a step; every process of the group calls it.

    Args:
        root: Folder of the steps, the same place for all processes.
        name: As in ``manifest.write_step_folder``.
        writers: This process's files.
        info: As in ``manifest.write_step_folder``; the first process's counts.
        group: The processes; has ``index`` and ``gather_objects``.

    Returns:
        The committed folder.

    Raises:
        CheckpointError: On every process, if one of them could not write.
    """
    root, is_first = Path(root), group.index == 0
    target = root / name
    temp = root / group.gather_objects(atomic.temp_path(root / "step").name)[0]
    try:
        outcome = _attempt(lambda: _prepare(root, temp) if is_first else None, target)
        _agree(group, outcome, target)
        written: dict[str, tuple[int, str]] = {}
        outcome = _attempt(lambda: written.update(manifest.write_files(temp, writers)), target)
        files = _agree(group, outcome, target, written)
        everything = {path: entry for each in files for path, entry in each.items()}
        commit = manifest.commit_step
        outcome = _attempt(
            lambda: commit(temp, target, everything, dict(info)) if is_first else None, target
        )
        _agree(group, outcome, target)
    finally:
        if is_first:
            atomic.remove(temp)
    return target


def _prepare(root: Path, temp: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    temp.mkdir()


def _attempt(work: Callable[[], Any], target: Path) -> str:
    """Do something and return what went wrong, or an empty text."""
    try:
        work()
    except CheckpointError as error:
        return str(error)
    except OSError as error:
        return str(atomic.write_error(error, target))
    return ""


def _agree(group: Any, outcome: str, target: Path, result: Any = None) -> list[Any]:
    """Return every process's result, or raise on all what went wrong on one."""
    found = group.gather_objects((outcome, result))
    wrong = [(index, text) for index, (text, _) in enumerate(found) if text]
    if wrong:
        ranks = ", ".join(str(index) for index, _ in wrong)
        raise CheckpointError(
            f"rank {ranks} could not write: {wrong[0][1]}",
            where=str(target),
            fix="earlier steps are whole; make room, or give all processes the same folder",
        )
    return [value for _, value in found]
