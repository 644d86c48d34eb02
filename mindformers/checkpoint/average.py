"""The moving average of the weights that a step keeps, as weights of their own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from mindformers.checkpoint.dtypes import cast
from mindformers.checkpoint.loading import WEIGHT_FILES, open_joined
from mindformers.checkpoint.manifest import Writer, latest_step, read_step_folder, write_step_folder
from mindformers.checkpoint.parts import JoinedFile
from mindformers.checkpoint.step_format import MANIFEST_NAME
from mindformers.checkpoint.tensor_file import StoredTensor
from mindformers.checkpoint.tensor_io import TensorToWrite, write_safetensors
from mindformers.errors import CheckpointError

AVERAGE = "ema"  # first part of the average's names in an optimizer's state
_OF_A_LAYOUT = (WEIGHT_FILES, "layout")


def write_average(source: str | Path, output: str | Path) -> Path:
    """Write a step that holds the average in place of the weights, and nothing to resume from.

    Weights without an average, as frozen ones, are kept as they are. The steps of a run of several
    processes are joined.

    Args:
        source: A step, a folder of steps (the highest valid one counts) or the output folder of a run.
        output: Folder of the new step; it can be loaded wherever weights can.

    Returns:
        The new step.

    Raises:
        CheckpointError: If there is no step, it is damaged, keeps no average, or lies in ``output``.
    """
    step = _find_step(Path(source))
    if step.parent.resolve() == Path(output).resolve():
        raise CheckpointError(
            "is the folder of the step itself", where=str(output), fix="name another folder"
        )
    info = read_step_folder(step)
    names = [str(name) for name in info.get(WEIGHT_FILES) or [info.get("weights")]]
    states = [str(path.relative_to(step)) for path in sorted(step.glob("rank_*/optimizer.*"))]
    with open_joined(step, names) as weights, open_joined(step, states) as state:
        if not any(f"{AVERAGE}.{name}" in state.tensors for name in weights.tensors):
            raise CheckpointError(
                "keeps no average of the weights", where=str(step),
                fix="train with optimizer.ema_decay, as 0.999",
            )  # fmt: skip
        tensors = [_tensor(stored, weights, state) for stored in weights.tensors.values()]
        file = f"rank_0/{PurePosixPath(names[0]).stem}.safetensors"
        writers: dict[str, Writer] = {file: lambda path: _write(path, tensors)}
        if (step / "config.yaml").is_file():
            writers["config.yaml"] = lambda path: _copy(step / "config.yaml", path)
        kept = {key: value for key, value in info.items() if key not in _OF_A_LAYOUT}
        return write_step_folder(Path(output), step.name, writers, kept | {"weights": file})


def _find_step(source: Path) -> Path:
    if (source / MANIFEST_NAME).is_file():
        return source
    for folder in (source, source / "checkpoint"):
        found = latest_step(folder)
        if found is not None:
            return found
    raise CheckpointError("holds no committed step", where=str(source),
                          fix="name a step, or the output folder of a run")  # fmt: skip


def _tensor(stored: StoredTensor, weights: JoinedFile, state: JoinedFile) -> TensorToWrite:
    name, average = stored.name, f"{AVERAGE}.{stored.name}"
    if average not in state.tensors:
        return TensorToWrite(name, stored.dtype, stored.shape, lambda: weights.blocks(name))

    def produce() -> Iterator[np.ndarray]:
        return (cast(block, stored.dtype, name) for block in state.blocks(average))

    return TensorToWrite(name, stored.dtype, stored.shape, produce)


def _write(path: Path, tensors: list[TensorToWrite]) -> None:
    write_safetensors(path, tensors)


def _copy(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)
