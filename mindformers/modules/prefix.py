"""A trained prefix: keys and values that stand before the first token of every layer (P-tuning v2).

Letters: B batch, S tokens, P positions of the prefix, G key/value heads, D head size.
"""

from __future__ import annotations

import zlib

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, Uniform, initializer

from mindformers.config.pet import PREFIX, Ptuning2Section
from mindformers.modules.linear import Linear
from mindformers.modules.lora import new_draw
from mindformers.ops.cast import Keep, build_cast
from mindformers.ops.dropout import build_dropout
from mindformers.ops.rotary import RotateHeads


class NoPrefix(nn.Cell):
    """Stands where a network without a prefix could have one."""

    def construct(self) -> None:
        """Return None."""
        return


class PrefixRows(nn.Cell):
    """One trained row for every position of the prefix.

    Args:
        num_rows: P.
        width: Channels of a row.
    """

    def __init__(self, num_rows: int, width: int):
        super().__init__()
        # Normal(1), as torch draws the embedding of the original.
        self.weight = Parameter(initializer(Normal(1.0), (num_rows, width), ms.float32), "weight")

    def construct(self) -> Tensor:
        """Return the rows, (P, width) float32."""
        return self.weight


class PrefixEncoder(nn.Cell):
    """Gives all layers their prefix. Its parameters are named as the original's.

    Args:
        settings: Length, projection and dropout.
        num_layers: Layers of the network.
        num_groups: G.
        head_dim: D.
        dtype: Type of the network's keys and values.

    Source: modeling_chatglm.py of chatglm2-6b, PrefixEncoder and get_prompt.
    """

    def __init__(
        self,
        settings: Ptuning2Section,
        *,
        num_layers: int,
        num_groups: int,
        head_dim: int,
        dtype: ms.dtype.Type,
    ):
        super().__init__()
        self.form = (settings.pre_seq_len, num_layers, 2, num_groups, head_dim)
        width = num_layers * 2 * num_groups * head_dim
        self.embedding = PrefixRows(settings.pre_seq_len, width)
        self.trans = Keep()
        if settings.prefix_projection:
            self.trans = nn.SequentialCell(
                _linear(width, settings.projection_dim),
                Tanh(),
                _linear(settings.projection_dim, width),
            )
        self.dropout = Keep()
        if settings.dropout_prob:
            salt = zlib.crc32(PREFIX.encode())
            self.dropout = build_dropout(settings.dropout_prob, new_draw(), salt)
        self.cast = build_cast(ms.float32, dtype)

    def construct(self) -> Tensor:
        """Return keys and values of the prefix, (layers, 2, P, G, D)."""
        rows = self.dropout(self.trans(self.embedding()))  # (P, layers * 2 * G * D)
        return self.cast(rows.reshape(self.form)).transpose((1, 2, 0, 3, 4))


class Tanh(nn.Cell):
    """tanh(x) as 2 sigmoid(2x) - 1: MindSpore's own is off by 1e-4 near 5 on a CPU, this by 2e-6."""

    def construct(self, x: Tensor) -> Tensor:
        """Return tanh of ``x``, same shape."""
        return 2.0 * ops.sigmoid(2.0 * x) - 1.0


def _linear(in_channels: int, out_channels: int) -> Linear:
    layer = Linear(
        in_channels,
        out_channels,
        has_bias=True,
        param_dtype=ms.float32,
        compute_dtype=ms.float32,
    )
    for parameter in layer.get_parameters():  # as torch starts a linear layer
        start = initializer(Uniform(in_channels**-0.5), parameter.shape, ms.float32)
        parameter.set_data(start.init_data())
    return layer


class PrefixedAttention(nn.Cell):
    """Rotary embedding, then attention over the prefix and the tokens.

    The prefix is not rotated, and tokens keep their positions from 0.

    Args:
        rotate: Splits and rotates what the projection gives.
        attention: As ``build_attention`` gives.
        layer: Number of the layer.
    """

    def __init__(self, rotate: RotateHeads, attention: nn.Cell, layer: int):
        super().__init__()
        self.rotate, self.attention, self.layer = rotate, attention, layer

    def construct(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, past: Tensor
    ) -> Tensor:
        """Attend.

        Args:
            qkv: (B, S, N + 2G, D), not rotated.
            cos: (1 or B, S, 1, D).
            sin: (1 or B, S, 1, D).
            mask: (1 or B, 1, S, S) float32, 0 where a token is seen; the prefix always is.
            past: (layers, 2, P, G, D), the prefix of all layers.

        Returns:
            (B, S, N * D), heads side by side.
        """
        query, key, value = self.rotate(qkv, cos, sin)
        seen = ops.tile(ops.zeros_like(mask[:, :, :, :1]), (1, 1, 1, past.shape[2]))
        keys = ops.cat((_for_rows(past[self.layer][0], key), key), 1)  # (B, P + S, G, D)
        values = ops.cat((_for_rows(past[self.layer][1], value), value), 1)
        return self.attention(query, keys, values, ops.cat((seen, mask), -1))


def _for_rows(past: Tensor, tokens: Tensor) -> Tensor:
    """Return ``past`` (P, G, D) for every row of ``tokens`` (B, S, G, D): (B, P, G, D)."""
    return past.expand_dims(0) + ops.zeros_like(tokens[:, :1])
