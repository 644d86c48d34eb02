"""A trained prefix: keys and values that stand before the first token of every layer (P-tuning v2).

Letters: B batch, S tokens, P positions of the prefix, G key/value heads, D head size.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindformers.checkpoint.parts import Parted
from mindformers.config.pet import PREFIX, Ptuning2Section
from mindformers.modules.linear import Linear
from mindformers.modules.lora import new_draw
from mindformers.ops.cast import Keep, build_cast
from mindformers.ops.dropout import build_dropout
from mindformers.ops.regions import build_gather_sequence
from mindformers.ops.rotary import RotateHeads

_ROWS, _LAST_BIAS = f"{PREFIX}embedding.weight", f"{PREFIX}trans.2.bias"


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
        self.weight = Parameter(Tensor(np.zeros((num_rows, width), np.float32)), name="weight")

    def construct(self) -> Tensor:
        """Return the rows, (P, width) float32."""
        return self.weight


class PrefixEncoder(nn.Cell):
    """Gives the layers of a process their prefix. Its parameters are named as the original's.

    Args:
        settings: Length, projection and dropout.
        parts: What this process's parameters are of the whole ones, by the original's names.
        heads: Layers of this process, G and D.
        dtype: Type of the network's keys and values.
        seed: What the start follows from, with the names, and not with the layout; None: drawn anew.

    Source: modeling_chatglm.py of chatglm2-6b, PrefixEncoder and get_prompt.
    """

    def __init__(
        self,
        settings: Ptuning2Section,
        parts: Mapping[str, Parted],
        *,
        heads: tuple[int, int, int],
        dtype: ms.dtype.Type,
        seed: int | None,
    ):
        super().__init__()
        num_layers, *others = heads
        self.form = (settings.pre_seq_len, num_layers, 2, *others)
        rows = parts[_ROWS]
        self.embedding = PrefixRows(*rows.own_shape)
        self.trans = Keep()
        if settings.prefix_projection:
            first, last = (parts[f"{PREFIX}trans.{index}.weight"].own_shape for index in (0, 2))
            self.trans = nn.SequentialCell(_linear(*first), Tanh(), _linear(*last))
        for name, parameter in self.parameters_and_names():
            entropy = None if seed is None else [seed, zlib.crc32(f"{PREFIX}{name}".encode())]
            whole = _start(f"{PREFIX}{name}", parts, np.random.default_rng(entropy))
            parameter.set_data(Tensor(parts[f"{PREFIX}{name}"].cut(whole)))
        self.dropout = Keep()
        if settings.dropout_prob:
            salt = zlib.crc32(PREFIX.encode())
            dropout = build_dropout(settings.dropout_prob, new_draw(), salt)
            own = _own_channels(parts)
            is_whole = len(own) == rows.shape[1]
            self.dropout = dropout if is_whole else OwnDropout(dropout, rows.shape, own)
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


def _linear(out_channels: int, in_channels: int) -> Linear:
    types = {"param_dtype": ms.float32, "compute_dtype": ms.float32}
    return Linear(in_channels, out_channels, has_bias=True, **types)


def _start(name: str, parts: Mapping[str, Parted], generator: np.random.Generator) -> np.ndarray:
    """Return what a whole parameter starts from, as torch starts an embedding and a linear layer."""
    shape = parts[name].shape
    if name == _ROWS:
        return generator.normal(0.0, 1.0, shape).astype(np.float32)
    in_channels = parts[f"{name.rpartition('.')[0]}.weight"].shape[1]
    bound = in_channels**-0.5
    return generator.uniform(-bound, bound, shape).astype(np.float32)


def _own_channels(parts: Mapping[str, Parted]) -> np.ndarray:
    """Return which channels of a whole row this process gives its layers, (channels,) int."""
    every = np.broadcast_to(np.arange(parts[_ROWS].shape[1]), parts[_ROWS].shape)
    if _LAST_BIAS in parts:
        return parts[_LAST_BIAS].cut(every[0])
    own: np.ndarray = parts[_ROWS].cut(every)[0]
    return own


class OwnDropout(nn.Cell):
    """Dropout of some channels of rows that chooses what it would choose of the whole rows.

    Args:
        dropout: As ``build_dropout`` gives.
        shape: (P, channels) of the whole rows.
        channels: Which ones there are.
    """

    def __init__(self, dropout: nn.Cell, shape: Sequence[int], channels: np.ndarray):
        super().__init__()
        self.dropout = dropout
        self.ones = Tensor(np.ones(tuple(shape), np.float32))
        self.channels = Tensor(channels.astype(np.int32))

    def construct(self, x: Tensor) -> Tensor:
        """Return ``x`` (P, own channels), some elements 0."""
        if not self.training:
            return x
        return x * ops.gather(self.dropout(self.ones), self.channels, 1)


class PrefixedAttention(nn.Cell):
    """Rotary embedding, then attention over the prefix and the tokens.

    The prefix is not rotated, and tokens keep their positions from 0.

    Args:
        rotate: Splits and rotates what the projection gives.
        attention: As ``build_attention`` gives.
        layer: Number of the layer among those of this process.
    """

    def __init__(self, rotate: RotateHeads, attention: nn.Cell, layer: int):
        super().__init__()
        self.rotate, self.attention, self.layer = rotate, attention, layer
        self.gather = build_gather_sequence()

    def construct(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, past: Tensor
    ) -> Tensor:
        """Attend.

        Args:
            qkv: (B, S, N + 2G, D), not rotated.
            cos: (1 or B, S, 1, D).
            sin: (1 or B, S, 1, D).
            mask: (1 or B, 1, S, L) float32, 0 where a token is seen; the prefix always is. L is S, or with a
                sequence that processes share its whole length.
            past: (layers, 2, P, G, D), the prefix of all layers of this process.

        Returns:
            (B, S, N * D), heads side by side.
        """
        query, key, value = self.rotate(qkv, cos, sin)
        key, value = self.gather(key), self.gather(value)  # (B, L, G, D)
        seen = ops.tile(ops.zeros_like(mask[:, :, :, :1]), (1, 1, 1, past.shape[2]))
        keys = ops.cat((_for_rows(past[self.layer][0], key), key), 1)  # (B, P + L, G, D)
        values = ops.cat((_for_rows(past[self.layer][1], value), value), 1)
        return self.attention(query, keys, values, ops.cat((seen, mask), -1))


def _for_rows(past: Tensor, tokens: Tensor) -> Tensor:
    """Return ``past`` (P, G, D) for every row of ``tokens`` (B, S, G, D): (B, P, G, D)."""
    return past.expand_dims(0) + ops.zeros_like(tokens[:, :1])
