"""Optimizers with one moment: SGD and Lion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mindspore import Parameter, Tensor, ops

from mindformers.config.options import refuse_options
from mindformers.errors import ConfigError
from mindformers.ops.native.optimizer import MomentRule, moment_update
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.optimizer_arguments import checked_betas, checked_part
from mindformers.training.optimizer_base import RuleOptimizer


class _MomentOptimizer(RuleOptimizer):
    """One that the kernels can do too."""

    def _update_by(
        self, slot: str, rule: MomentRule, grads: Sequence[Tensor], lr: float, scale: float
    ) -> None:
        if self.is_native:
            slopes = [grad.contiguous() for grad in grads]
            moment_update(self.kernel_targets(slot, lr), slopes, rule, scale)
        else:
            super()._update(grads, lr, scale)


@MindFormerRegister.register(MindFormerModuleType.OPTIMIZER)
class SGD(_MomentOptimizer):
    """Stochastic gradient descent; weight decay is part of the gradient, as in MindSpore and PyTorch.

    Args:
        params: As of ``Optimizer``, as are ``learning_rate``, ``weight_decay`` and ``ema_decay``.
        learning_rate: Rate used when a run has no schedule; a number or a schedule.
        momentum: What a step leaves of the sum of gradients, in [0, 1); 0 keeps no sum.
        dampening: Part of a gradient that does not enter the sum, in [0, 1).
        weight_decay: Times the weight, added to its gradient.
        nesterov: Look one step ahead; needs ``momentum`` above 0 and ``dampening`` 0.
        ema_decay: None, or what an update leaves of the average of the weights.
        options: ``loss_scale`` at 1.0; the training step scales the loss.

    Raises:
        ConfigError: If an argument is out of range or not implemented.
    """

    kind = "SGD"

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        learning_rate: float | Callable[[int], float] = 0.1,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        ema_decay: float | None = None,
        **options: Any,
    ):
        refuse_options("optimizer", options, {"loss_scale": (1.0,)})
        self.momentum = checked_part("momentum", momentum)
        self.dampening, self.nesterov = checked_part("dampening", dampening), nesterov
        if nesterov and (dampening or not momentum):
            raise ConfigError(
                f"is True with momentum {momentum} and dampening {dampening}",
                where="optimizer.nesterov", allowed="with a momentum above 0 and dampening 0",
            )  # fmt: skip
        super().__init__(params, learning_rate, weight_decay, ema_decay, momentum=self.momentum)

    @property
    def _taken(self) -> float:
        """What the sum takes of a slope: all of the first one."""
        return 1.0 if self.step == 0 else 1.0 - self.dampening

    def _update(self, grads: Sequence[Tensor], lr: float, scale: float) -> None:
        rule = MomentRule("sgd", self.momentum, self._taken, self.nesterov)
        self._update_by("sgd_m", rule, grads, lr, scale)

    def _changed(self, index: int, grad: Tensor, lr: float) -> Tensor:
        weight, decay = self.target(index), self.groups[index].weight_decay
        slope = grad + decay * weight if decay else grad
        if self.momentum:
            total = self.slots[index]["sgd_m"]
            total.set_data(self.momentum * total + self._taken * slope)
            slope = slope + self.momentum * total if self.nesterov else total
        return weight - lr * slope


@MindFormerRegister.register(MindFormerModuleType.OPTIMIZER)
class Lion(_MomentOptimizer):
    """Steps of one size in each direction: the sign of a mean of gradients. Half of AdamW's state.

    Args:
        params: As of ``Optimizer``, as are ``learning_rate``, ``weight_decay`` and ``ema_decay``.
        learning_rate: A third to a tenth of what AdamW takes; a number or a schedule.
        betas: What the direction and the mean keep of the mean, each in [0, 1).
        weight_decay: Decay per step, times the learning rate; three to ten times AdamW's.
        ema_decay: None, or what an update leaves of the average of the weights.

    Raises:
        ConfigError: If an argument is out of range.

    Source: "Symbolic Discovery of Optimization Algorithms", program 1.
    """

    kind = "Lion"

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        learning_rate: float | Callable[[int], float] = 1e-4,
        betas: Sequence[float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        ema_decay: float | None = None,
    ):
        self.betas = checked_betas("betas", betas)
        super().__init__(params, learning_rate, weight_decay, ema_decay)

    def _update(self, grads: Sequence[Tensor], lr: float, scale: float) -> None:
        self._update_by("lion_m", MomentRule("lion", *self.betas), grads, lr, scale)

    def _changed(self, index: int, grad: Tensor, lr: float) -> Tensor:
        weight, mean = self.target(index), self.slots[index]["lion_m"]
        beta1, beta2 = self.betas
        direction = ops.sign(beta1 * mean + (1.0 - beta1) * grad)
        mean.set_data(beta2 * mean + (1.0 - beta2) * grad)
        return weight * (1.0 - lr * self.groups[index].weight_decay) - lr * direction
