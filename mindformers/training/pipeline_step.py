"""Forward and backward passes of a pipeline stage, micro batch by micro batch.

MindSpore gives back the gradients of passes under way in reverse order only; a pipeline wants the first one
first. So a stage keeps what it was given, and computes its forward pass again where its backward pass is due.
The last stage goes back at once and computes nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindformers.parallel.mesh import Mesh
from mindformers.parallel.schedule import one_forward_one_backward
from mindformers.training.train_step import Batch, batch_tensors


class _Stage(nn.Cell):
    """What a stage gives, times a weight on the last one."""

    def __init__(self, network: nn.Cell, is_last: bool):
        super().__init__(auto_prefix=False)
        self.network, self.is_last = network, is_last

    def construct(self, stream, weight, input_ids, labels, document_starts=None):
        """Return (T, H), or the weighted loss (1,) on the last stage; ``stream`` is None on the first."""
        if document_starts is None:
            result = self.network.run_stage(input_ids, labels, stream)
        else:
            result = self.network.run_stage(
                input_ids, labels, stream, document_starts=document_starts
            )
        return result * weight if self.is_last else result


class PipelinePasses:
    """The passes of one step on this stage.

    Args:
        network: This stage of a network; has ``run_stage``, ``stream_form`` and ``begin_micro_batch``.
        parameters: What gradients are computed for.
        mesh: The groups, with the line between stages.
    """

    def __init__(self, network: nn.Cell, parameters: Sequence[Parameter], mesh: Mesh):
        self.network, self.line, self.layout = network, mesh.line, mesh.layout
        self.weights = weights = ParameterTuple(parameters)
        self.stage = _Stage(network, self.layout.is_last_stage)
        self.stage.set_train(True)
        self.before, self.after = self.layout.neighbour(-1), self.layout.neighbour(1)
        self.loss_and_slopes = ms.value_and_grad(self.stage, 0, weights)
        self.weight_slopes = ops.GradOperation(get_by_list=True, sens_param=True)(
            _FirstStage(self.stage), weights
        )

    def __call__(
        self, micro_batches: Sequence[Batch], weights: Sequence[float], step: int = 0
    ) -> tuple[list[float], list[Tensor]]:
        """Return the weighted losses, 0 but on the last stage, and the summed float32 gradients.

        Args:
            micro_batches: Of the step.
            weights: What each one's loss is multiplied by.
            step: Finished updates; what is random follows from it and the number of the micro batch.
        """
        under_way: dict[int, tuple[Any, ...]] = {}
        losses, total = [0.0] * len(micro_batches), _Sum()
        slots = one_forward_one_backward(
            self.layout.stage, self.layout.pipeline, len(micro_batches)
        )
        for is_forward, index in slots:
            self.network.begin_micro_batch(step, index)  # both passes drop the same
            if is_forward:
                under_way[index] = self._forward(micro_batches[index], weights[index])
            else:
                losses[index], grads = self._backward(under_way.pop(index))
                total.add(grads)
        return losses, total.grads

    def _forward(self, batch: Batch, weight: float) -> tuple[Any, ...]:
        """Receive what this micro batch's passes are given; give the next stage its part."""
        ids, *others = batch_tensors(batch)
        stream = None
        if not self.layout.is_first_stage:
            stream = self.line.receive(*self.network.stream_form(ids.shape), self.before)
        given = (stream, Tensor(weight, ms.float32), ids, *others)
        if not self.layout.is_last_stage:
            self.line.send(self.stage(*given), self.after)
        return given

    def _backward(self, given: tuple[Any, ...]) -> tuple[float, Sequence[Tensor]]:
        """Return the loss, 0 but on the last stage, and the gradients; give the stage before its part."""
        if self.layout.is_last_stage:
            loss, (slope, grads) = self.loss_and_slopes(*given)
            self.line.send(slope, self.before)
            return float(loss.asnumpy()[0]), grads
        arrived = self.line.receive(*self.network.stream_form(given[2].shape), self.after)
        if self.layout.is_first_stage:
            return 0.0, self.weight_slopes(*given[1:], arrived)
        _, way_back = ops.vjp(
            lambda stream: self.stage(stream, *given[1:]), given[0], weights=self.weights
        )
        (slope,), grads = way_back(arrived)
        self.line.send(slope, self.before)
        return 0.0, grads


class _FirstStage(nn.Cell):
    """A stage that is given no stream."""

    def __init__(self, stage: _Stage):
        super().__init__(auto_prefix=False)
        self.stage = stage

    def construct(self, weight, input_ids, labels, document_starts=None):
        """Return (T, H)."""
        return self.stage(None, weight, input_ids, labels, document_starts)


class _Sum:
    """Gradients of micro batches, summed in float32 one by one, so that two full sets is the peak."""

    def __init__(self) -> None:
        self.grads: list[Tensor] = []

    def add(self, grads: Sequence[Tensor]) -> None:
        """Add one micro batch's."""
        new = [grad if grad.dtype == ms.float32 else grad.astype(ms.float32) for grad in grads]
        if not self.grads:
            self.grads = new
            return
        for index in range(len(new)):
            self.grads[index] = self.grads[index] + new[index]
            new[index] = None
