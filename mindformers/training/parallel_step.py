"""A training step that several processes share: the loss and the gradients are those of one big batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindformers.parallel.mesh import mesh
from mindformers.training.gradient_sync import GradientSync
from mindformers.training.pipeline_step import PipelinePasses
from mindformers.training.train_step import Batch, MFTrainOneStepCell

_ALMOST_NONE = 1e-30  # a weight that is not 0 and makes nothing of a loss


class ParallelTrainStep(MFTrainOneStepCell):
    """As ``MFTrainOneStepCell``, over the processes of ``mesh()``.

    Args:
        network: This rank's share of a network; has ``run_stage`` and ``copied_rows``.
        optimizer: Over this rank's parameters.
        num_buckets: Messages to make of all gradients, at least.
        **options: As of ``MFTrainOneStepCell``.
    """

    def __init__(self, network: nn.Cell, optimizer: Any, *, num_buckets: int = 4, **options: Any):
        super().__init__(network, optimizer, **options)
        self.mesh = mesh()
        self.copies = self.mesh.replicas.size
        self.sync = GradientSync(
            self.mesh,
            optimizer.parameters,
            network.copied_rows(),
            num_buckets=num_buckets,
            num_groups=network.config.n_kv_heads,
        )
        self.passes = (
            PipelinePasses(network, optimizer.parameters, self.mesh)
            if self.mesh.layout.pipeline > 1
            else None
        )

    def _total(self, count: int) -> int:
        own = Tensor(np.array([count], np.float32))  # exact below 16 M tokens a step
        return int(self.mesh.replicas.all_reduce(own).asnumpy()[0])

    def _accumulate(
        self, micro_batches: Sequence[Batch], weights: Sequence[float]
    ) -> tuple[list[float], list[Tensor]]:
        if self.passes is None:
            # No rank leaves a batch out: the others of its group would wait for it.
            return super()._accumulate(micro_batches, [max(w, _ALMOST_NONE) for w in weights])
        scaled = [weight * self.loss_scale for weight in weights]
        losses, grads = self.passes(micro_batches, scaled, self.optimizer.step)
        return [loss / self.loss_scale for loss in losses], grads

    def _joined(
        self, losses: list[float], grads: list[Tensor]
    ) -> tuple[list[float], list[Tensor], float]:
        grads = self.sync(grads)
        layout = self.mesh.layout
        counts_here = layout.is_last_stage and layout.tensor_rank == 0
        own = self.sync.square_sum(grads, float(self._square_sum(*grads)))
        row = [value if counts_here else 0.0 for value in losses]
        row.append(own / self.copies)
        summed = self.mesh.world.all_reduce(Tensor(np.array(row, np.float32), ms.float32)).asnumpy()
        *shared, square = (float(value) for value in summed)
        if math.isnan(square):
            return shared, grads, math.nan
        return shared, grads, math.sqrt(max(square, 0.0)) / self.loss_scale
