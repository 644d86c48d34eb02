"""Write and read one training step: weights, optimizer, position, all in one committed folder.

``<root>/step_00000010/`` holds ``manifest.json``, ``config.yaml`` and, in ``rank_0/``, the weights
(``<prefix>_rank_0-<epoch>_<step>``, ``.safetensors`` or ``.ckpt``), ``optimizer.safetensors`` and
``state.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor, nn

from mindformers.checkpoint import manifest
from mindformers.checkpoint.ckpt_io import CkptFile, write_ckpt
from mindformers.checkpoint.dtypes import BY_CKPT, plain_array
from mindformers.checkpoint.tensor_file import TensorFile
from mindformers.checkpoint.tensor_io import SafeFile, TensorToWrite, write_safetensors
from mindformers.errors import CheckpointError, did_you_mean
from mindformers.training.optimizer import AdamW
from mindformers.training.state import TrainState, read_state

FORMATS = ("safetensors", "ckpt")
OPTIMIZER_FILE, STATE_FILE, CONFIG_FILE = "optimizer.safetensors", "state.json", "config.yaml"


@dataclass(frozen=True)
class StepFormat:
    """How a step is written.

    Attributes:
        prefix: Start of the weight file's name.
        weights: ``safetensors`` or ``ckpt``.
        has_optimizer: Save moments and master copies; without them a run cannot be resumed.
        rank: Number of this process.
    """

    prefix: str = "CKP"
    weights: str = "safetensors"
    has_optimizer: bool = True
    rank: int = 0

    def weight_file(self, state: TrainState) -> str:
        """Return upstream's name of the weight file."""
        position = f"{state.epoch}_{state.step_in_epoch}"
        return f"{self.prefix}_rank_{self.rank}-{position}.{self.weights}"


def folder_name(global_step: int) -> str:
    """Return the name of a step's folder."""
    return f"step_{global_step:08d}"


def write_weights(network: nn.Cell, path: Path, kind: str) -> None:
    """Write what a step keeps of a network, one tensor in memory at a time."""
    _write_tensors(step_parameters(network), path, kind)


def step_parameters(network: nn.Cell) -> list[Parameter]:
    """Return what a step keeps of a network: what it says itself, else every parameter."""
    own = getattr(network, "step_parameters", None)
    return list(own() if own else network.get_parameters())


def _write_tensors(parameters: Iterable[Parameter], path: Path, kind: str) -> None:
    tensors = [_to_write(parameter) for parameter in parameters]
    if kind == "ckpt":
        write_ckpt(path, tensors)
    else:
        write_safetensors(path, tensors)


def save_step(
    root: Path, network: nn.Cell, optimizer: AdamW, state: TrainState,
    form: StepFormat, config_text: str = "",
) -> Path:  # fmt: skip
    """Write a step and commit it.

    Args:
        root: Folder of the steps.
        network: Its parameters are saved; of one with adapters these alone.
        optimizer: Its moments and master copies are saved, unless ``form`` says otherwise.
        state: Position of the run.
        form: Names and formats.
        config_text: The run's resolved YAML; empty: none is kept.

    Returns:
        The committed folder.

    Raises:
        CheckpointError: If the system refuses a write; earlier steps stay as they were.
    """
    rank = f"rank_{form.rank}"
    weight_file = f"{rank}/{form.weight_file(state)}"
    writers: dict[str, Callable[[Path], None]] = {
        weight_file: lambda path: write_weights(network, path, form.weights),
        f"{rank}/{STATE_FILE}": _text_writer(state.to_json()),
    }
    if form.has_optimizer:
        slots = optimizer.state_parameters()
        writers[f"{rank}/{OPTIMIZER_FILE}"] = lambda path: _write_tensors(
            slots, path, "safetensors"
        )
    if config_text:
        writers[CONFIG_FILE] = _text_writer(config_text)
    notes: dict[str, str] = getattr(network, "step_notes", dict)()
    info = {"step": state.global_step, "epoch": state.epoch, "weights": weight_file, **notes}
    return manifest.write_step_folder(root, folder_name(state.global_step), writers, info)


def load_step(folder: Path, network: nn.Cell, optimizer: AdamW, rank: int = 0) -> TrainState:
    """Load a step's weights and optimizer; return its state.

    Raises:
        CheckpointError: If a file is missing or changed, has no optimizer state, or does not fit
            the network.
    """
    info = manifest.read_step_folder(folder)
    state = read_state(folder / f"rank_{rank}" / STATE_FILE)
    optimizer_file = folder / f"rank_{rank}" / OPTIMIZER_FILE
    if not optimizer_file.is_file():
        raise CheckpointError(
            "holds no optimizer state", where=str(folder),
            fix="resume from a step saved with save_optimizer True, or load the weights only",
        )  # fmt: skip
    check = getattr(network, "check_step", None)
    if check:
        check(info, str(folder))
    _load_weights(folder / f"rank_{rank}" / Path(str(info.get("weights"))).name, network)
    with SafeFile(optimizer_file) as file:
        optimizer.load_state({name: file.read(name) for name in file.tensors}, state.optimizer_step)
    return state


def _text_writer(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return write


def _to_write(parameter: Parameter) -> TensorToWrite:
    dtype = BY_CKPT[str(parameter.dtype)]
    return TensorToWrite(
        parameter.name, dtype, tuple(parameter.shape), lambda: plain_array(parameter.asnumpy())
    )


def _load_weights(path: Path, network: nn.Cell) -> None:
    """Copy stored weights into the network's parameters; every name, shape and type must match."""
    parameters = {parameter.name: parameter for parameter in step_parameters(network)}
    kind = CkptFile if path.suffix == ".ckpt" else SafeFile
    with kind(path) as file:
        _check_names(path, parameters, file)
        for name, parameter in parameters.items():
            stored = file.tensors[name]
            wanted = (BY_CKPT[str(parameter.dtype)].name, tuple(parameter.shape))
            if (stored.dtype.name, stored.shape) != wanted:
                raise CheckpointError(
                    f"is {stored.dtype.name} {stored.shape}", where=f"{path}: {name}",
                    allowed=f"{wanted[0]} {wanted[1]}", fix="resume with the same model settings",
                )  # fmt: skip
            parameter.set_data(_as_tensor(file.read(name), parameter))


def _as_tensor(array: np.ndarray, like: Parameter) -> Tensor:
    """Return a tensor of the parameter's type with the array's bits."""
    if str(like.dtype) != "BFloat16":
        return Tensor(array)
    # Exact: a bfloat16 is the upper half of a float32, and rounding back drops zeros.
    return Tensor(array.astype(np.float32)).astype(like.dtype)


def _check_names(path: Path, parameters: Iterable[str], file: TensorFile) -> None:
    names = set(parameters)
    missing, extra = sorted(names - set(file.tensors)), sorted(set(file.tensors) - names)
    if missing or extra:
        first = (missing or extra)[0]
        raise CheckpointError(
            f"{len(missing)} weights of the network are missing, {len(extra)} are unknown "
            f"(first: {first})",
            where=str(path),
            fix=did_you_mean(first, file.tensors if missing else names)
            or "resume with the same model settings",
        )
