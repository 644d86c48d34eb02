"""Copies of weights with their adapters added, for kernels that know plain weights only."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from mindspore import Parameter, Tensor, nn

from mindformers.modules.lora import LoraLinear
from mindformers.ops.native.arrays import Buffer, of_array
from mindformers.pet.lora import lora_layers

SAMPLES = 4096  # values of a frozen weight that are compared; it changes as a whole or not at all


class MergedWeights:
    """Keeps W + scale * B A of a network's layers in float32, and makes it anew when one of them changed."""

    def __init__(self) -> None:
        self._arrays: dict[str, tuple[tuple[int, ...], np.ndarray]] = {}

    def buffers(self, network: nn.Cell, joined: Iterable[Sequence[str]] = ()) -> dict[str, Buffer]:
        """Return the merged weights as they are now, by the names of the weights they stand for.

        Args:
            network: The network with adapters; without any, nothing is returned.
            joined: Names of the layers of one parent that a kernel joins to one weight, so that all
                of them must have one type: where one is merged, the others are copied in float32.
        """
        layers = lora_layers(network)
        cells: dict[str, nn.Cell] = dict(layers)
        if layers:
            cells |= _fellows(network, layers, joined)
        self._arrays = {
            f"{path}.weight": self._array(f"{path}.weight", cell) for path, cell in cells.items()
        }
        return {name: of_array(array) for name, (_, array) in self._arrays.items()}

    def _array(self, name: str, cell: nn.Cell) -> tuple[tuple[int, ...], np.ndarray]:
        key = _state(cell)
        kept = self._arrays.get(name)
        if kept is not None and kept[0] == key:
            return kept
        if isinstance(cell, LoraLinear):
            return key, cell.merged()
        return key, np.array(cell.dense(), np.float32)


def _fellows(
    network: nn.Cell, layers: dict[str, LoraLinear], joined: Iterable[Sequence[str]]
) -> dict[str, nn.Cell]:
    """Return the layers without adapters that are joined with one that has one."""
    cells = dict(network.cells_and_names())
    found: dict[str, nn.Cell] = {}
    for path in layers:
        parent, _, own = path.rpartition(".")
        for names in joined:
            if own in names:
                found |= {f"{parent}.{name}": cells[f"{parent}.{name}"] for name in names}
    return {path: cell for path, cell in found.items() if path not in layers}


def _state(cell: nn.Cell) -> tuple[int, ...]:
    """Return numbers that change when the layer's values do, in place or not."""
    weight = cell.weight.asnumpy().reshape(-1)
    sample = weight[:: -(-weight.size // SAMPLES)]
    state = (cell.weight.data_ptr(), zlib.crc32(np.ascontiguousarray(sample).tobytes()))
    if isinstance(cell, LoraLinear):
        low, high = _bytes(cell.mindpet_delta_lora_a), _bytes(cell.mindpet_delta_lora_b)
        return (*state, zlib.crc32(low), zlib.crc32(high), hash(cell.scale))
    return state


def _bytes(parameter: Parameter | Tensor) -> bytes:
    return bytes(np.ascontiguousarray(parameter.asnumpy()).tobytes())
