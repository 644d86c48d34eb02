"""``LoraLinear``: a frozen linear layer with a trained product of low rank beside it.

Letters: T tokens of all rows, r rank.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindformers.config.pet import LORA_A, LORA_B, LORA_DRAW, LoraSection
from mindformers.modules.linear import Linear
from mindformers.modules.rounded_linear import RoundedLinear
from mindformers.modules.start import INIT_SIGMA
from mindformers.ops.cast import Keep
from mindformers.ops.dropout import build_dropout
from mindformers.ops.linear import build_linear_product


class LoraLinear(nn.Cell):
    """y = x W^T + b + scale * dropout(x) A^T B^T.

    The weight and the bias are the base layer's own parameters under their own names, frozen.

    Args:
        base: The layer that gets the adapter.
        settings: Rank, alpha, dropout and start of the adapter.
        draw: With dropout, what the dropped elements follow from; see ``build_dropout``.
        salt: With dropout, a number of this layer's own.
        start: What A starts from, (r, in) float32; None: drawn anew.
    """

    def __init__(
        self,
        base: Linear | RoundedLinear,
        settings: LoraSection,
        draw: Parameter | None = None,
        salt: int = 0,
        start: np.ndarray | None = None,
    ):
        super().__init__()
        out_channels, in_channels = base.out_channels, base.in_channels
        self.weight, self.bias, self.product = base.weight, base.bias, base.product
        self._base = (base,)  # in a tuple, or its parameters would be listed twice
        for parameter in self.get_parameters():
            parameter.requires_grad = False
        rank = settings.lora_rank
        if start is None:
            start = start_of_a(settings, in_channels, np.random.default_rng())
        self.mindpet_delta_lora_a = Parameter(Tensor(start), name=LORA_A)
        self.mindpet_delta_lora_b = Parameter(
            Tensor(np.zeros((out_channels, rank), np.float32)), name=LORA_B
        )
        self.scale = settings.scale
        self.dropout = Keep()
        if settings.lora_dropout:
            draw = new_draw() if draw is None else draw
            self.dropout = build_dropout(settings.lora_dropout, draw, salt)
        self.adapter_product = build_linear_product(ms.float32, base.compute_dtype)

    def construct(self, x: Tensor) -> Tensor:
        """Return (T, out) for ``x`` (T, in)."""
        low = self.adapter_product(self.dropout(x), self.mindpet_delta_lora_a)  # (T, r)
        # Scaled here, where it is r wide; on the weights it would cost a product per step as well.
        added = self.adapter_product(low * self.scale, self.mindpet_delta_lora_b)
        return self.frozen(x) + added

    def frozen(self, x: Tensor) -> Tensor:
        """Return what the base layer gives."""
        return self.product(x, self.weight, self.bias)

    @property
    def base(self) -> Linear | RoundedLinear:
        """The layer without its adapter."""
        return self._base[0]

    def adapter(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Return A, B and the scale as they are now."""
        low, high = self.mindpet_delta_lora_a.asnumpy(), self.mindpet_delta_lora_b.asnumpy()
        return low, high, self.scale

    def merged(self) -> np.ndarray:
        """Return W + scale * B A, (out, in) float32."""
        low, high, scale = self.adapter()
        merged = high @ (np.float32(scale) * low)
        merged += self.base.dense()
        return merged


class RoundedLoraLinear(LoraLinear):
    """``LoraLinear`` beside a weight held in int8 or int4; arguments as there."""

    def __init__(self, base: RoundedLinear, *arguments: Any):
        super().__init__(base, *arguments)
        self.scales = base.scales

    def frozen(self, x: Tensor) -> Tensor:
        """Return what the base layer gives."""
        return self.product(x, self.weight, self.scales, self.bias)


def build_lora(base: Linear | RoundedLinear, *arguments: Any) -> LoraLinear:
    """Return a layer with an adapter in the base layer's place; arguments as of ``LoraLinear``."""
    kind = RoundedLoraLinear if isinstance(base, RoundedLinear) else LoraLinear
    return kind(base, *arguments)


def new_draw() -> Parameter:
    """Return what the dropout of a network's adapters follows from, (1,) int32."""
    return Parameter(Tensor([0], ms.int32), name=LORA_DRAW, requires_grad=False)


def start_of_a(
    settings: LoraSection, in_channels: int, generator: np.random.Generator
) -> np.ndarray:
    """Return what A of a layer of so many inputs starts from, (r, in) float32."""
    shape = (settings.lora_rank, in_channels)
    if settings.lora_a_init == "normal":
        return generator.normal(0.0, INIT_SIGMA, shape).astype(np.float32)
    bound = in_channels**-0.5  # kaiming_uniform with a = sqrt(5): sqrt(6 / ((1 + 5) * in))
    return generator.uniform(-bound, bound, shape).astype(np.float32)
