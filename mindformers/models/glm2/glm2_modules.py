"""The MLP of a GLM block.

Letters: T tokens of all rows, H hidden, F ffn.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn

from mindformers.checkpoint.quantized import BITS, usual_group
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.modules.linear import Linear
from mindformers.modules.rounded_linear import RoundedLinear
from mindformers.ops.activation import build_split_swiglu, build_swiglu
from mindformers.ops.backend import compute_dtype, storage_dtype
from mindformers.ops.cast import Keep
from mindformers.ops.native.cells import (
    NativeActivatedLinear,
    NativeLinear,
    NativeSplitSwiGlu,
    NativeSwiGlu,
)
from mindformers.ops.regions import build_enter, build_leave
from mindformers.parallel.mesh import mesh


def build_linear(
    config: ChatGLM2Config,
    in_channels: int,
    out_channels: int,
    has_bias: bool = False,
    *,
    may_round: bool = True,
    columns: int | None = None,
) -> Linear | RoundedLinear:
    """Return a linear layer in the configuration's types.

    Args:
        config: Of the network.
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        has_bias: Add a bias.
        may_round: Hold the weight in int8 or int4 where the configuration asks for it.
        columns: Of the whole matrix, where this process has some of them; its scales are those of the whole one.
    """
    types = {
        "param_dtype": storage_dtype(config.param_init_type),
        "compute_dtype": compute_dtype(config.compute_dtype),
    }
    kind = getattr(config.pet, "base_quantization", None)
    if kind and may_round:
        group = usual_group(BITS[kind], {columns or in_channels})
        return RoundedLinear(
            in_channels, out_channels, has_bias=has_bias, kind=kind, group=group, **types
        )
    return Linear(in_channels, out_channels, has_bias=has_bias, **types)


def residual_dtype(config: ChatGLM2Config) -> ms.dtype.Type:
    """Return the type of the residual stream."""
    return ms.float32 if config.fp32_residual_connection else compute_dtype(config.residual_dtype)


class _Both(nn.Cell):
    """Gate and up as they are."""

    def construct(self, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        return gate, up


def recompute_activation(mlp: nn.Cell) -> None:
    """Let an MLP keep only gate and up in training and compute their product, (T, F), again on the way back."""
    down = mlp.dense_4h_to_h
    if not isinstance(mlp.activation, (NativeSwiGlu, NativeSplitSwiGlu)):
        mlp.activation.recompute()
    elif isinstance(down, Linear) and isinstance(down.product, NativeLinear):
        is_split = isinstance(mlp.activation, NativeSplitSwiGlu)
        mlp.activation = _Both() if is_split else Keep()
        # Trained or not decides how products are summed, so the new cell begins as the old one is.
        down.product = NativeActivatedLinear(down.product.to_float32).set_train(
            down.product.training
        )


class ChatGLM2MLP(nn.Cell):
    """SwiGLU MLP with gate and up in one weight (``mlp_concat``)."""

    def __init__(self, config: ChatGLM2Config):
        super().__init__()
        channels = config.ffn_hidden_size // mesh().layout.tensor
        self.enter, self.leave = build_enter(), build_leave()
        self.dense_h_to_4h = build_linear(config, config.hidden_size, 2 * channels)
        self.activation = build_swiglu(channels)
        self.dense_4h_to_h = build_linear(
            config, channels, config.hidden_size, columns=config.ffn_hidden_size
        )

    def construct(self, x: Tensor) -> Tensor:
        """Return (T, H) for ``x`` (T, H)."""
        gate_up = self.dense_h_to_4h(self.enter(x))  # (T, 2F)
        return self.leave(self.dense_4h_to_h(self.activation(gate_up)))


class ChatGLM2SplitMLP(nn.Cell):
    """SwiGLU MLP with gate (``dense_left``) and up (``dense_right``) apart."""

    def __init__(self, config: ChatGLM2Config):
        super().__init__()
        channels = config.ffn_hidden_size // mesh().layout.tensor
        self.enter, self.leave = build_enter(), build_leave()
        self.dense_left = build_linear(config, config.hidden_size, channels)
        self.dense_right = build_linear(config, config.hidden_size, channels)
        self.activation = build_split_swiglu()
        self.dense_4h_to_h = build_linear(
            config, channels, config.hidden_size, columns=config.ffn_hidden_size
        )

    def construct(self, x: Tensor) -> Tensor:
        """Return (T, H) for ``x`` (T, H)."""
        x = self.enter(x)
        return self.leave(
            self.dense_4h_to_h(self.activation(self.dense_left(x), self.dense_right(x)))
        )


def build_mlp(config: ChatGLM2Config) -> nn.Cell:
    """Return the MLP in the weight layout the configuration asks for."""
    return ChatGLM2MLP(config) if config.mlp_concat else ChatGLM2SplitMLP(config)
