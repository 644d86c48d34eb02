"""The optimizers by name: AdamW, SGD, Lion, AdaFactor and Muon."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mindspore import Parameter, Tensor

from mindformers.config.options import refuse_options
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.adafactor import AdaFactor
from mindformers.training.adam_update import AdamUpdate
from mindformers.training.muon import Muon
from mindformers.training.optimizer_arguments import checked_betas, checked_positive
from mindformers.training.optimizer_base import Optimizer
from mindformers.training.optimizer_rules import SGD, Lion

__all__ = ["SGD", "AdaFactor", "AdamW", "Lion", "Muon", "Optimizer"]

_NEUTRAL = {"use_fused": (), "amsgrad": (False,), "maximize": (False,), "swap": (False,)}


@MindFormerRegister.register(MindFormerModuleType.OPTIMIZER)
class AdamW(Optimizer):
    """AdamW with bias correction, float32 moments and, for weights of another type, a float32 copy.

    Args:
        params: As of ``Optimizer``, as are ``learning_rate``, ``weight_decay`` and ``ema_decay``.
        learning_rate: Rate used when a run has no schedule; a number or a schedule.
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the square root of the second moment, above 0.
        weight_decay: Decay per step, times the learning rate.
        ema_decay: None, or what an update leaves of the average of the weights.
        options: ``use_fused`` (read, no effect: the update is fused in any case); ``amsgrad``,
            ``maximize`` and ``swap`` at False.

    Raises:
        ConfigError: If an argument is out of range or not implemented.

    Source: "Decoupled Weight Decay Regularization".
    """

    kind = "AdamW"

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        learning_rate: float | Callable[[int], float] = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        ema_decay: float | None = None,
        **options: Any,
    ):
        refuse_options("optimizer", options, _NEUTRAL)
        self.betas, self.eps = checked_betas("betas", betas), checked_positive("eps", eps)
        super().__init__(params, learning_rate, weight_decay, ema_decay)
        members = range(len(self.parameters))
        self._adam = AdamUpdate(self, members, self.betas, self.eps)

    def _update(self, grads: Sequence[Tensor], lr: float, scale: float) -> None:
        self._adam(grads, lr, scale, self.step + 1)
