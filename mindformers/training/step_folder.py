"""Write and read one training step: weights, optimizer, position, all in one committed folder.

``<root>/step_00000010/`` holds ``manifest.json``, ``config.yaml`` and, in ``rank_0/``, the weights
(``<prefix>_rank_0-<epoch>_<step>``, ``.safetensors`` or ``.ckpt``), ``optimizer.safetensors`` and
``state.json``. Of several processes each has a folder with its share and ``strategy.json``, which says what
of the whole tensors that is; what several hold alike is written by the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, nn

from mindformers.checkpoint import manifest
from mindformers.checkpoint.ckpt_io import write_ckpt
from mindformers.checkpoint.dtypes import BY_CKPT, plain_array
from mindformers.checkpoint.loading import WEIGHT_FILES, open_joined
from mindformers.checkpoint.parts import STRATEGY_FILE, JoinedFile, Parted, write_strategy
from mindformers.checkpoint.shared_step import write_shared_step
from mindformers.checkpoint.tensor_io import TensorToWrite, write_safetensors
from mindformers.errors import CheckpointError, did_you_mean
from mindformers.ops.cast import exact_tensor
from mindformers.parallel.heartbeat import beat
from mindformers.parallel.mesh import mesh
from mindformers.training.optimizer_base import Optimizer
from mindformers.training.sharded_optimizer import ShardedOptimizer
from mindformers.training.state import TrainState, check_optimizer, read_state

FORMATS = ("safetensors", "ckpt")
OPTIMIZER_FILE, STATE_FILE, CONFIG_FILE = "optimizer.safetensors", "state.json", "config.yaml"


@dataclass(frozen=True)
class StepFormat:
    """How a step is written.

    Attributes:
        prefix: Start of the weight file's name.
        weights: ``safetensors`` or ``ckpt``.
        has_optimizer: Save moments and master copies; without them a run cannot be resumed.
    """

    prefix: str = "CKP"
    weights: str = "safetensors"
    has_optimizer: bool = True

    def weight_file(self, state: TrainState, rank: int = 0) -> str:
        """Return upstream's name of a process's weight file."""
        position = f"{state.epoch}_{state.step_in_epoch}"
        return f"{self.prefix}_rank_{rank}-{position}.{self.weights}"


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
    _write([_to_write(parameter) for parameter in parameters], path, kind)


def _stored(file: JoinedFile, name: str) -> TensorToWrite:
    stored = file.tensors[name]
    return TensorToWrite(name, stored.dtype, stored.shape, lambda: file.read(name))


def _write(tensors: list[TensorToWrite], path: Path, kind: str) -> None:
    if kind == "ckpt":
        write_ckpt(path, tensors)
    else:
        write_safetensors(path, tensors)


def save_step(
    root: Path, network: nn.Cell, optimizer: Optimizer | ShardedOptimizer, state: TrainState,
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
    active = mesh()
    layout = active.layout
    rank, is_first = f"rank_{layout.rank}", layout.rank == 0
    writers: dict[str, Callable[[Path], None]] = {}
    if active.replicas.index == 0:
        weight_file = f"{rank}/{form.weight_file(state, layout.rank)}"
        writers[weight_file] = lambda path: write_weights(network, path, form.weights)
    slots = optimizer.saved_state() if form.has_optimizer else []
    if slots:
        writers[f"{rank}/{OPTIMIZER_FILE}"] = lambda path: _write_tensors(
            slots, path, "safetensors"
        )
    if not layout.is_single:
        parted = tensor_parts(network, optimizer)
        writers[f"{rank}/{STRATEGY_FILE}"] = lambda path: write_strategy(path, parted)
    if is_first:
        writers[f"{rank}/{STATE_FILE}"] = _text_writer(state.to_json())
        if config_text:
            writers[CONFIG_FILE] = _text_writer(config_text)
    notes: dict[str, Any] = getattr(network, "step_notes", dict)()
    names = [
        f"rank_{each.rank}/{form.weight_file(state, each.rank)}"
        for each in layout.every_rank()
        if each.data_rank == each.context_rank == 0
    ]
    info = {"step": state.global_step, "epoch": state.epoch, "weights": names[0], **notes}
    name = folder_name(state.global_step)
    if layout.is_single:
        return manifest.write_step_folder(root, name, writers, info)
    info |= {WEIGHT_FILES: names, "layout": layout.to_dict()}
    return write_shared_step(root, name, writers, info, active.world)


def write_alone(
    target: Path, step: Path, network: nn.Cell, state: TrainState, form: StepFormat,
    is_whole: bool = True,
) -> None:  # fmt: skip
    """Write a network's weights without anything a resume needs; every process calls it.

    Args:
        target: Gets ``rank_0/`` with the weights, or a folder of each rank that has its own.
        step: The committed step of the same weights.
        network: This process's share.
        state: Position of the run.
        form: Names and formats.
        is_whole: One file, of whole tensors, by the first process; else each rank its share.
    """
    active = mesh()
    rank = active.layout.rank
    path = target / f"rank_{rank}" / form.weight_file(state, rank)
    if active.layout.is_single:
        write_weights(network, path, form.weights)
    elif not is_whole and active.replicas.index == 0:
        write_weights(network, path, form.weights)
        write_strategy(path.parent / STRATEGY_FILE, network.weight_parts())
    elif is_whole and rank == 0:
        names = manifest.read_step_folder(step, verify=False)[WEIGHT_FILES]
        with open_joined(step, names) as joined:
            _write([_stored(joined, name) for name in joined.tensors], path, form.weights)


def load_step(
    folder: Path, network: nn.Cell, optimizer: Optimizer | ShardedOptimizer
) -> TrainState:
    """Load this process's share of a step's weights and optimizer, whatever layout wrote it.

    Returns:
        The step's state.

    Raises:
        CheckpointError: If a file is missing or changed, has no optimizer state, or does not fit
            the network.
    """
    info = manifest.read_step_folder(folder)
    state = read_state(folder / "rank_0" / STATE_FILE)
    check_optimizer(state, getattr(optimizer, "kind", type(optimizer).__name__))
    files = sorted(folder.glob(f"rank_*/{OPTIMIZER_FILE}"))
    if not files:
        raise CheckpointError(
            "holds no optimizer state", where=str(folder),
            fix="resume from a step saved with save_optimizer True, or load the weights only",
        )  # fmt: skip
    check = getattr(network, "check_step", None)
    if check:
        check(info, str(folder))
    parted = tensor_parts(network, optimizer)
    names = info.get(WEIGHT_FILES) or [info.get("weights")]
    with open_joined(folder, [str(name) for name in names]) as weights:
        _load_weights(weights, network, parted)
    own = [slot.name for slot in optimizer.state_parameters()]
    with open_joined(folder, [str(file.relative_to(folder)) for file in files]) as stored:
        optimizer.check_names(_own_names(stored.tensors, own, parted))
        arrays = {name: _own_rows(stored, name, parted.get(name)) for name in own}
        optimizer.load_state(arrays, state.optimizer_step)
    return state


def tensor_parts(network: nn.Cell, optimizer: Optimizer | ShardedOptimizer) -> dict[str, Parted]:
    """Return what this process's weights and optimizer state are of the whole ones; empty when alone."""
    if mesh().layout.is_single:
        return {}
    weights = network.weight_parts()
    return weights | optimizer.state_parts(weights)


def _own_names(
    stored: Iterable[str], own: Sequence[str], parted: Mapping[str, Parted]
) -> Iterable[str]:
    """Return the stored names this process has to know: of a shared run those of its stage only."""
    names = set(own)
    return [name for name in stored if name in names] if parted else stored


def _own_rows(file: JoinedFile, name: str, wanted: Parted | None) -> np.ndarray:
    """Return this process's rows of a whole tensor."""
    wanted = wanted or Parted.whole(file.tensors[name].shape)
    if not wanted.shape:
        return file.read(name)
    out = np.empty(wanted.own_shape, file.tensors[name].dtype.numpy)
    for place, block in file.read_parts(name, wanted):
        out[place] = block
    return out


def _text_writer(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return write


def _to_write(parameter: Parameter) -> TensorToWrite:
    dtype = BY_CKPT[str(parameter.dtype)]

    def produce() -> np.ndarray:
        beat(f"saving {parameter.name}")
        return plain_array(parameter.asnumpy())

    return TensorToWrite(parameter.name, dtype, tuple(parameter.shape), produce)


def _load_weights(file: JoinedFile, network: nn.Cell, parted: Mapping[str, Parted]) -> None:
    """Copy stored weights into the network's parameters; every name, shape and type must match."""
    parameters = {parameter.name: parameter for parameter in step_parameters(network)}
    _check_names(file.path, parameters, _own_names(file.tensors, list(parameters), parted))
    for name, parameter in parameters.items():
        stored = file.tensors[name]
        shape = parted[name].shape if name in parted else tuple(parameter.shape)
        wanted = (BY_CKPT[str(parameter.dtype)].name, shape)
        if (stored.dtype.name, stored.shape) != wanted:
            raise CheckpointError(
                f"is {stored.dtype.name} {stored.shape}", where=f"{file.path}: {name}",
                allowed=f"{wanted[0]} {wanted[1]}", fix="resume with the same model settings",
            )  # fmt: skip
        own = _own_rows(file, name, parted.get(name))
        parameter.set_data(exact_tensor(own, parameter.dtype))


def _check_names(path: Path, parameters: Iterable[str], stored: Iterable[str]) -> None:
    names, found = set(parameters), set(stored)
    missing, extra = sorted(names - found), sorted(found - names)
    if missing or extra:
        first = (missing or extra)[0]
        raise CheckpointError(
            f"{len(missing)} weights of the network are missing, {len(extra)} are unknown "
            f"(first: {first})",
            where=str(path),
            fix=did_you_mean(first, found if missing else names)
            or "resume with the same model settings",
        )
