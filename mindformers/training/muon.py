"""Muon: the matrices of the layers move by orthogonal updates, everything else by AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mindspore import Parameter, Tensor, ops

from mindformers.config.options import refuse_options
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.adam_update import AdamUpdate
from mindformers.training.optimizer_arguments import (
    checked_betas,
    checked_part,
    checked_positive,
    refuse,
)
from mindformers.training.optimizer_base import Optimizer
from mindformers.training.optimizer_slots import is_orthogonalized

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, from Jordan's "Muon"
_NORM_GUARD = 1e-7
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "qk_clip_threshold": (),  # upstream clips the logits of other networks' attention
    "model": (None,),
    "swap": (False,),
}


@MindFormerRegister.register(MindFormerModuleType.OPTIMIZER)
class Muon(Optimizer):
    """Momentum made orthogonal by Newton-Schulz iterations; embedding, output layer, norms and biases by AdamW.

    Args:
        params: As of ``Optimizer``, as are ``learning_rate``, ``weight_decay`` and ``ema_decay``.
        learning_rate: Rate of both; ``matched_adamw_rms`` makes it AdamW's.
        weight_decay: Decay per step, times the learning rate.
        matched_adamw_rms: Root mean square of a matrix's update, before the rate, above 0.
        momentum: What a step leaves of the mean of gradients, in [0, 1).
        nesterov: Look one step ahead.
        ns_steps: Iterations, 1 or more.
        adamw_betas: AdamW's.
        adamw_eps: AdamW's.
        ema_decay: None, or what an update leaves of the average of the weights.
        options: ``qk_clip_threshold`` (no effect on this network), ``model`` at None, ``swap`` at False.

    Raises:
        ConfigError: If an argument is out of range or not implemented.

    Source: "Muon: An optimizer for hidden layers in neural networks"; "Muon is Scalable for LLM Training", section 2.2.
    """

    kind = "Muon"

    def __init__(  # noqa: PLR0913 -- upstream's arguments
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        learning_rate: float | Callable[[int], float] = 2e-2,
        weight_decay: float = 0.1,
        matched_adamw_rms: float = 0.2,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        *,
        adamw_betas: Sequence[float] = (0.95, 0.95),
        adamw_eps: float = 1e-8,
        ema_decay: float | None = None,
        **options: Any,
    ):
        refuse_options("optimizer", options, _NEUTRAL)
        self.size = checked_positive("matched_adamw_rms", matched_adamw_rms)
        self.momentum, self.nesterov = checked_part("momentum", momentum), nesterov
        if not isinstance(ns_steps, int) or ns_steps < 1:
            refuse("ns_steps", ns_steps, "a whole number, 1 or more")
        self.ns_steps = ns_steps
        betas = checked_betas("adamw_betas", adamw_betas)
        super().__init__(params, learning_rate, weight_decay, ema_decay)
        chosen = [is_orthogonalized(each.name, each.shape) for each in self.parameters]
        self._matrices = [index for index, is_matrix in enumerate(chosen) if is_matrix]
        self._others = [index for index, is_matrix in enumerate(chosen) if not is_matrix]
        eps = checked_positive("adamw_eps", adamw_eps)
        self._adam = AdamUpdate(self, self._others, betas, eps) if self._others else None

    def _update(self, grads: Sequence[Tensor], lr: float, scale: float) -> None:
        if self._adam is not None:
            self._adam([grads[index] for index in self._others], lr, scale, self.step + 1)
        for index in self._matrices:
            group = self.groups[index]
            rate = lr * group.lr_scale
            weight = self.target(index) * (1.0 - rate * group.weight_decay)
            size = self.size * math.sqrt(max(weight.shape))
            update = orthogonal(self._direction(index, grads[index] * scale), self.ns_steps)
            self.set_target(index, weight - (rate * size) * update)

    def _direction(self, index: int, grad: Tensor) -> Tensor:
        mean = self.slots[index]["muon_m"]
        mean.set_data(self.momentum * mean + (1.0 - self.momentum) * grad)
        if not self.nesterov:
            return mean
        return self.momentum * mean + (1.0 - self.momentum) * grad


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Return about the orthogonal matrix nearest to ``matrix`` (rows, cols): its singular values near 1, float32."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix  # (short, long)
    x = x / (math.sqrt(float(ops.square(x).sum().asnumpy())) + _NORM_GUARD)
    times, times_transposed = ops.MatMul(), ops.MatMul(transpose_b=True)
    a, b, c = _COEFFICIENTS
    for _ in range(steps):
        square = times_transposed(x, x)  # (short, short)
        x = a * x + times(b * square + c * times(square, square), x)
    return x.T if is_tall else x
