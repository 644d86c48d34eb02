"""Find the step a run resumes from: what ``resume_training`` and ``load_checkpoint`` ask for."""

from __future__ import annotations

from pathlib import Path

from mindformers.checkpoint.manifest import committed_steps, latest_step
from mindformers.checkpoint.step_format import MANIFEST_NAME
from mindformers.errors import CheckpointError, did_you_mean


def find_resume_folder(
    resume_training: bool | str, load_checkpoint: str | None, output_dir: str | Path
) -> Path | None:
    """Return the step folder to resume from, or None when the run starts anew.

    Args:
        resume_training: False or empty: start anew. True: the newest committed step. A text: the
            path or the name of a step folder, or of a weight file in one.
        load_checkpoint: Where to look first: a folder of steps, a step, or a file in one; empty:
            ``<output_dir>/checkpoint``.
        output_dir: The run's output folder.

    Raises:
        CheckpointError: If there is no such step.
    """
    if not resume_training:
        return None
    root = Path(load_checkpoint) if load_checkpoint else Path(output_dir) / "checkpoint"
    direct = _enclosing_step(root)
    if resume_training is True:
        return direct or _newest(root)
    named = _enclosing_step(Path(resume_training))
    return named or _by_name(str(resume_training), direct.parent if direct else root)


def _enclosing_step(path: Path) -> Path | None:
    """Return the step folder that ``path`` is, or is a file of."""
    for folder in (path, *list(path.parents)[:2]):
        if (folder / MANIFEST_NAME).is_file():
            return folder
    return None


def _newest(root: Path) -> Path:
    for folder in (root, root / "checkpoint"):  # an output folder is understood too
        found = latest_step(folder)
        if found is not None:
            return found
    raise CheckpointError(
        "no committed step to resume from",
        where=str(root),
        fix="set resume_training to False to start anew, or load_checkpoint to a folder of steps",
    )


def _by_name(name: str, root: Path) -> Path:
    steps = [*committed_steps(root), *committed_steps(root / "checkpoint")]
    for folder in steps:
        files = {path.name for path in folder.rglob("*") if path.is_file()}
        if name == folder.name or name in files:
            return folder
    names = [folder.name for folder in steps]
    raise CheckpointError(
        f"no step or weight file is called {name!r}",
        where=str(root),
        allowed=", ".join(names),
        fix=did_you_mean(name, names) or "set resume_training to True for the newest step",
    )
