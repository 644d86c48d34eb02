"""SwiGLU: silu(gate) * up. Source: GLM-4-9B modeling_chatglm.py, MLP."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from mindformers.ops.backend import cell_backend
from mindformers.ops.native.cells import NativeSplitSwiGlu, NativeSwiGlu


class PortableSwiGlu(nn.Cell):
    """The composed form: two slices, one SiLU, one product."""

    def __init__(self, ffn_size: int):
        super().__init__()
        self.ffn_size = ffn_size

    def construct(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) * up, (T, F), from ``gate_up`` (T, 2F): gate first, up second."""
        return ops.silu(gate_up[:, : self.ffn_size]) * gate_up[:, self.ffn_size :]


class AscendSwiGlu(nn.Cell):
    """The fused operator of an NPU (``ops.swiglu``). Not run on Ascend here."""

    def construct(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) * up, (T, F), from ``gate_up`` (T, 2F): gate first, up second."""
        return ops.swiglu(gate_up, -1)


def build_swiglu(ffn_size: int) -> nn.Cell:
    """Return the SwiGLU of the active backend for an MLP ``ffn_size`` channels wide."""
    backend = cell_backend()
    if backend == "native":
        return NativeSwiGlu()
    return AscendSwiGlu() if backend == "ascend" else PortableSwiGlu(ffn_size)


class PortableSplitSwiGlu(nn.Cell):
    """SwiGLU of two tensors, for every device."""

    def construct(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return silu(gate) * up, all (T, F)."""
        return ops.silu(gate) * up


def build_split_swiglu() -> nn.Cell:
    """Return the SwiGLU of the active backend for gate and up apart."""
    return NativeSplitSwiGlu() if cell_backend() == "native" else PortableSplitSwiGlu()
