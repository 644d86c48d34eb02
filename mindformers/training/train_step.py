"""One training step: gradients of the micro batches, their norm, a check, then the update.

The loss and the norm are looked at before a weight is touched, so a NaN never reaches the weights
or the moments.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindformers.config.columns import COLUMNS, IGNORED_LABEL, STARTS_COLUMN
from mindformers.config.options import refuse_options
from mindformers.errors import ConfigError, DataError
from mindformers.ops.backend import active_backend
from mindformers.ops.native.optimizer import square_sum
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.joined_rows import joined_rows
from mindformers.training.optimizer_base import Optimizer
from mindformers.training.sharded_optimizer import ShardedOptimizer
from mindformers.training.step_result import StepResult

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "calculate_per_token_loss": (),  # micro batches always count by their tokens
    "print_separate_loss": (),  # these models have one loss
}
_NORM_GUARD = 1e-6  # torch.nn.utils.clip_grad_norm_ and upstream's ClipGradNorm
_DOT_BLOCK = 8192  # too short for BLAS to split among threads, so the sum does not depend on them

Batch = Mapping[str, np.ndarray]


class _GradientCell(nn.Cell):
    """Weighted loss of one micro batch and its float32 gradients."""

    def __init__(self, network: nn.Cell, parameters: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.network = network
        self.cast = ops.Cast()
        self.is_float32 = all(parameter.dtype == ms.float32 for parameter in parameters)
        self.loss_and_grads = ms.value_and_grad(
            self.weighted_loss, None, ParameterTuple(parameters)
        )

    def weighted_loss(self, weight, input_ids, labels, document_starts=None):
        """Return the network's loss times ``weight``, shape (1,)."""
        if document_starts is None:
            return self.network(input_ids, labels) * weight
        return self.network(input_ids, labels, document_starts=document_starts) * weight

    def construct(self, weight, input_ids, labels, document_starts=None):
        """Return ``(loss (1,), gradients)``; the gradients are float32, one per parameter."""
        loss, grads = self.loss_and_grads(weight, input_ids, labels, document_starts)
        if self.is_float32:
            return loss, grads
        return loss, [self.cast(grad, ms.float32) for grad in grads]


class SquareSumCell(nn.Cell):
    """Sum of all squared gradients on the device; ``L2Loss`` is quicker, but 3 % off at 16M values."""

    def construct(self, *grads):
        """Return () float32."""
        total = 0.0
        for grad in grads:
            total = total + ops.square(grad).sum()
        return total


def host_square_sum(*grads: Tensor) -> float:
    """Return the same on a CPU, where a gradient is an array already: 20 times quicker."""
    total = 0.0
    for grad in grads:
        flat = grad.asnumpy().reshape(-1)
        for start in range(0, flat.size, _DOT_BLOCK):
            block = flat[start : start + _DOT_BLOCK]
            total += float(np.dot(block, block))
    return total


@MindFormerRegister.register(MindFormerModuleType.WRAPPER)
class MFTrainOneStepCell:
    """A training step over one or more micro batches.

    The micro batches of a step count by their trained tokens, so accumulation gives the loss and
    the gradients of one big batch.

    Args:
        network: Cell with ``construct(input_ids, labels)`` -> mean loss over the labels, (1,); for packed rows
            it takes ``document_starts`` too.
        optimizer: Updates ``optimizer.parameters``.
        use_clip_grad: Scale the gradients down to ``max_grad_norm``.
        max_grad_norm: Largest global L2 norm, above 0.
        scale_sense: Loss scale; a fixed number above 0.
        local_norm: Find the norm of each parameter's gradient too.
        use_skip_data_by_global_norm: Leave the weights as they are in a step whose norm is
            ``global_norm_spike_threshold`` or more.
        global_norm_spike_threshold: The norm, above 0.
        options: Upstream's other arguments, at their neutral values.

    Raises:
        ConfigError: If an argument is out of range or not implemented.
    """

    copies = 1  # processes that see other tokens of a step

    def __init__(
        self,
        network: nn.Cell,
        optimizer: Optimizer | ShardedOptimizer,
        use_clip_grad: bool = False,
        max_grad_norm: float = 1.0,
        scale_sense: float = 1.0,
        *,
        local_norm: bool = False,
        global_norm_spike_threshold: float = 1.0,
        use_skip_data_by_global_norm: bool = False,
        **options: Any,
    ):
        refuse_options("runner_wrapper", options, _NEUTRAL)
        for name, value in (("max_grad_norm", max_grad_norm), ("scale_sense", scale_sense),
                            ("global_norm_spike_threshold", global_norm_spike_threshold)):  # fmt: skip
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise ConfigError(
                    f"is {value!r}", where=f"runner_wrapper.{name}", allowed="a number above 0"
                )
        self.network, self.optimizer = network, optimizer
        self.max_grad_norm = float(max_grad_norm) if use_clip_grad else math.inf
        self.loss_scale, self.local_norm = float(scale_sense), local_norm
        self.spike = (
            float(global_norm_spike_threshold) if use_skip_data_by_global_norm else math.inf
        )
        self.is_updating = False
        network.set_train(True)
        self._inputs = inspect.signature(network.construct).parameters
        self._prepared = joined_rows if getattr(network, "joins_rows", False) else _as_it_is
        self._gradients = _GradientCell(network, optimizer.parameters)
        self._gradients.set_train(True)
        sums = {"native": square_sum, "portable": host_square_sum}
        self._square_sum = sums.get(active_backend()) or SquareSumCell()

    def __call__(self, *inputs: Any, lr: float | None = None) -> Any:
        """Run one step.

        Args:
            inputs: ``(micro_batches, lr)``, see ``step``; or upstream's form: the tensors
                ``(input_ids, labels)`` of one batch, (B, S) int32.
            lr: Learning rate; None, in upstream's form: the optimizer's own, a number or its
                schedule at this step.

        Returns:
            A ``StepResult``; in upstream's form the tensors ``(loss (1,), overflow (), loss scale (),
            learning rate (), global norm (1,))``, and with ``local_norm`` the norm and the size of each
            parameter, (parameters,).
        """
        if isinstance(inputs[0], (list, tuple)):
            return self.step(*inputs) if lr is None else self.step(inputs[0], lr)
        batch = {name: _as_array(each) for name, each in zip(COLUMNS, inputs, strict=True)}
        if lr is None:
            rate = self.optimizer.learning_rate
            lr = float(rate(self.optimizer.step) if callable(rate) else rate)
        result = self.step([batch], lr)
        sizes = [each.size for each in self.optimizer.parameters]
        more = (Tensor(result.local_norms, ms.float32), Tensor(sizes)) if self.local_norm else ()
        return (
            Tensor([result.loss], ms.float32),
            Tensor(result.overflow),
            Tensor(self.loss_scale, ms.float32),
            Tensor(lr, ms.float32),
            Tensor([result.grad_norm], ms.float32),
            *more,
        )

    def set_train(self, mode: bool = True) -> MFTrainOneStepCell:
        """Set the network to training, as it is from the start; return this step."""
        self.network.set_train(mode)
        self._gradients.set_train(mode)
        return self

    def step(self, micro_batches: Sequence[Batch], lr: float) -> StepResult:
        """Run one step and update the weights, unless the loss or the norm is not finite.

        Args:
            micro_batches: Each has ``input_ids`` and ``labels``, (B, S) int32, and ``document_starts`` where
                rows hold several documents.
            lr: Learning rate of this step.

        Raises:
            ConfigError: If rows hold several documents and the network takes no borders.
            DataError: If no token of the step has a label.
        """
        if STARTS_COLUMN in micro_batches[0] and STARTS_COLUMN not in self._inputs:
            raise ConfigError(
                f"{type(self.network).__name__} takes no {STARTS_COLUMN}, so documents of one row would see "
                "one another",
                where="train_dataset.packing",
                allowed="False for this network",
            )
        counts = [int(np.count_nonzero(b["labels"] != IGNORED_LABEL)) for b in micro_batches]
        trained = self._total(sum(counts))
        if trained == 0:
            raise DataError(
                f"none of the {len(micro_batches)} micro batches of a step has a label",
                fix="check the data set: every label is -100",
            )
        weights = [count / trained for count in counts]
        losses, grads = self._accumulate(micro_batches, weights)
        losses, grads, norm = self._joined(losses, grads)
        loss = math.fsum(losses)
        overflow = not (math.isfinite(loss) and math.isfinite(norm))
        local = tuple(self._norm(grad) for grad in grads) if self.local_norm else ()
        if not (overflow or norm >= self.spike):
            self._update(grads, lr, norm)
        bad = tuple(i for i, value in enumerate(losses) if not math.isfinite(value))
        tokens = sum(int(batch["input_ids"].size) for batch in micro_batches) * self.copies
        is_spike = not overflow and norm >= self.spike
        return StepResult(loss, norm, overflow, tokens, trained, bad, is_spike, local)

    def gradients(self, batch: Batch, weight: float = 1.0) -> tuple[float, list[Tensor]]:
        """Return a batch's loss times ``weight``, and its gradients times the loss scale too."""
        value, grads = self._gradients(
            Tensor(weight * self.loss_scale, ms.float32), *batch_tensors(self._prepared(batch))
        )
        return float(value.asnumpy().reshape(-1)[0]) / self.loss_scale, list(grads)

    def _accumulate(
        self, micro_batches: Sequence[Batch], weights: Sequence[float]
    ) -> tuple[list[float], list[Tensor]]:
        """Return the weighted losses and the summed gradients; a batch of weight 0 is left out."""
        losses: list[float] = []
        total: list[Tensor] = []
        begin = getattr(self.network, "begin_micro_batch", None)
        for part, (batch, weight) in enumerate(zip(micro_batches, weights, strict=True)):
            if weight == 0:
                losses.append(0.0)
                continue
            if begin:
                begin(self.optimizer.step, part)
            loss, grads = self.gradients(batch, weight)
            losses.append(loss)
            if not total:
                total = grads
                continue
            for index in range(len(total)):  # one by one, so that two full sets is the peak
                total[index] = total[index] + grads[index]
                grads[index] = None
        return losses, total

    def _total(self, count: int) -> int:
        """Return the labelled tokens of the whole step, for those seen here."""
        return count

    def _joined(
        self, losses: list[float], grads: list[Tensor]
    ) -> tuple[list[float], list[Tensor], float]:
        """Return losses and gradients of the whole step, and the norm, for those found here."""
        return losses, grads, self._norm(*grads)

    def _norm(self, *grads: Tensor) -> float:
        """Return the global L2 norm of some gradients, without the loss scale."""
        return math.sqrt(float(self._square_sum(*grads))) / self.loss_scale

    def _update(self, grads: Sequence[Tensor], lr: float, norm: float) -> None:
        clip = min(1.0, self.max_grad_norm / (norm + _NORM_GUARD))
        self.is_updating = True
        self.optimizer.apply(grads, lr, clip / self.loss_scale)
        self.is_updating = False


def _as_it_is(batch: Batch) -> Batch:
    return batch


def batch_tensors(batch: Batch) -> list[Tensor]:
    """Return ids, labels and, of packed rows, where documents begin: each (B, S) int32."""
    names = (*COLUMNS, STARTS_COLUMN) if STARTS_COLUMN in batch else COLUMNS
    return [Tensor(np.ascontiguousarray(batch[name], np.int32)) for name in names]


def _as_array(values: Any) -> np.ndarray:
    return np.asarray(values.asnumpy() if hasattr(values, "asnumpy") else values, np.int32)
