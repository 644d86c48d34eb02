"""AdaFactor: a matrix's second moments as one mean for each row and one for each column."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mindspore import Parameter, Tensor, ops

from mindformers.config.options import refuse_options
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.lr_annealing import RelativeStepLR
from mindformers.training.optimizer_arguments import checked_part, checked_positive, refuse
from mindformers.training.optimizer_base import RuleOptimizer

_NEUTRAL = {"compression": (False,), "loss_scale": (1.0,)}


@MindFormerRegister.register(MindFormerModuleType.OPTIMIZER, "Adafactor")
@MindFormerRegister.register(MindFormerModuleType.OPTIMIZER)
class AdaFactor(RuleOptimizer):
    """Adaptive steps with almost no state: (rows + columns) numbers for a matrix.

    Args:
        params: As of ``Optimizer``, as are ``learning_rate``, ``weight_decay`` and ``ema_decay``.
        learning_rate: Rate used when a run has no schedule; a number or a schedule.
        eps: Added to a squared gradient, and the least size of a weight for ``scale_parameter``.
        clip_threshold: Largest root mean square of an update, before the rate.
        decay_rate: The moments of step t keep 1 - t**-decay_rate, above 0.
        beta1: What a step leaves of the mean of updates, in [0, 1); None keeps none.
        weight_decay: Decay per step, times the learning rate.
        scale_parameter: Multiply the rate by the root mean square of the weight.
        relative_step: Take the rate from the step, 1 / sqrt(t), at most 0.01, whatever
            ``learning_rate`` is.
        warmup_init: With ``relative_step``: at most t / 1,000,000.
        ema_decay: None, or what an update leaves of the average of the weights.
        options: ``compression`` at False, ``loss_scale`` at 1.0.

    Raises:
        ConfigError: If an argument is out of range or not implemented.

    Source: "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", algorithms 4 to 6.
    """

    kind = "AdaFactor"

    def __init__(  # noqa: PLR0913 -- MindSpore's arguments
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        learning_rate: float | Callable[[int], float] = 1e-3,
        eps: Sequence[float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = 0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        *,
        scale_parameter: bool = True,
        relative_step: bool = False,
        warmup_init: bool = False,
        ema_decay: float | None = None,
        **options: Any,
    ):
        refuse_options("optimizer", options, _NEUTRAL)
        if len(eps) != 2:
            refuse("eps", eps, "two numbers above 0")
        self.eps = checked_positive("eps", eps[0]), checked_positive("eps", eps[1])
        self.clip_threshold = checked_positive("clip_threshold", clip_threshold)
        self.decay_rate = checked_positive("decay_rate", decay_rate)
        self.beta1 = None if beta1 is None else checked_part("beta1", beta1)
        self.scale_parameter = scale_parameter
        if warmup_init and not relative_step:
            refuse("warmup_init", warmup_init, "False without relative_step")
        rate = RelativeStepLR(warmup_init) if relative_step else learning_rate
        super().__init__(params, rate, weight_decay, ema_decay, beta1=self.beta1)

    def _changed(self, index: int, grad: Tensor, lr: float) -> Tensor:
        weight, slots = self.target(index), self.slots[index]
        if self.scale_parameter:
            lr *= max(self.eps[1], root_mean_square(weight))
        kept = 1.0 - (self.step + 1) ** -self.decay_rate
        update = self._normed(slots, grad, kept)
        size = max(1.0, root_mean_square(update) / self.clip_threshold)
        update = update * (lr / size)
        if self.beta1 is not None:
            mean = slots["adafactor_m"]
            mean.set_data(self.beta1 * mean + (1.0 - self.beta1) * update)
            update = mean
        return weight * (1.0 - lr * self.groups[index].weight_decay) - update

    def _normed(self, slots: Mapping[str, Parameter], grad: Tensor, kept: float) -> Tensor:
        """Return the gradient over the root of its second moments, which are updated first."""
        square = ops.square(grad) + self.eps[0]
        if "adafactor_v" in slots:
            return grad * ops.rsqrt(_moved(slots["adafactor_v"], square, kept))
        rows = _moved(slots["adafactor_row"], square.mean(-1), kept)
        columns = _moved(slots["adafactor_column"], square.mean(-2), kept)
        shares = ops.rsqrt(rows / rows.mean(-1, keep_dims=True))
        return grad * shares.expand_dims(-1) * ops.rsqrt(columns).expand_dims(-2)


def root_mean_square(values: Tensor) -> float:
    """Return the root of the mean square of float32 values."""
    return math.sqrt(float(ops.square(values).mean().asnumpy()))


def _moved(mean: Parameter, new: Tensor, kept: float) -> Parameter:
    mean.set_data(kept * mean + (1.0 - kept) * new)
    return mean
