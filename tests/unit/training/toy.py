"""A small network and data set that the training tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindformers.training.callback import Callback
from mindformers.training.optimizer import AdamW
from mindformers.training.param_groups import get_optimizer_grouped_parameters
from mindformers.training.run import StepReport, TrainRun
from mindformers.training.train_step import MFTrainOneStepCell

VOCAB, WIDTH, SEQ = 16, 8, 6
IGNORED = -100


def weight(shape: tuple[int, ...], name: str, seed: int, dtype: Any = ms.float32) -> Parameter:
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 0.3
    return Parameter(Tensor(values).astype(dtype), name=name)


class ToyBlock(nn.Cell):
    def __init__(self, seed: int, dtype: Any):
        super().__init__()
        self.weight = weight((WIDTH, WIDTH), "weight", seed, dtype)
        self.bias = weight((WIDTH,), "bias", seed + 1, dtype)

    def construct(self, hidden):
        update = ops.matmul(hidden, self.weight.astype(ms.float32))
        return hidden + ops.tanh(update + self.bias.astype(ms.float32))


class ToyNet(nn.Cell):
    """Embedding, blocks and head over 16 tokens; loss (1,) is the mean over labels but -100.

    ``spike`` multiplies the embedding of token 15, so that a batch holding it can overflow.
    """

    def __init__(self, layers: int = 2, seed: int = 1, dtype: Any = ms.float32, spike: float = 1.0):
        super().__init__()
        self.embedding = weight((VOCAB, WIDTH), "embedding", seed, dtype)
        self.layers = nn.CellList([ToyBlock(seed + 10 * (i + 1), dtype) for i in range(layers)])
        self.head = weight((WIDTH, VOCAB), "head", seed + 3, dtype)
        self.spike = ToySpike(spike)

    def construct(self, input_ids, labels):
        ids = input_ids.reshape((-1,))
        hidden = ops.gather(self.embedding.astype(ms.float32), ids, 0)
        hidden = self.spike(hidden, ids)
        for layer in self.layers:
            hidden = layer(hidden)
        logits = ops.matmul(hidden, self.head.astype(ms.float32))
        labels = labels.reshape((-1,))
        mask = (labels != IGNORED).astype(ms.float32)
        picked = ops.gather_elements(
            ops.log_softmax(logits), 1, ops.maximum(labels, 0).reshape((-1, 1))
        )
        loss = -(picked.reshape((-1,)) * mask).sum() / (mask.sum() + 1e-8)
        return loss.reshape((1,))


class ToySpike(nn.Cell):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def construct(self, hidden, ids):
        hit = (ids == VOCAB - 1).astype(ms.float32).reshape((-1, 1))
        return hidden * (1.0 + hit * (self.factor - 1.0)) * (1.0 + hit * (self.factor - 1.0))


class ToyData:
    """Rows of random tokens; the order is a function of (seed, epoch)."""

    def __init__(
        self,
        rows: int = 12,
        batch_size: int = 2,
        seed: int = 3,
        fingerprint: str = "toy",
        top: int = 15,
    ):
        rng = np.random.default_rng(seed)
        self.ids = rng.integers(0, top, (rows, SEQ)).astype(np.int32)
        self.labels = rng.integers(0, top, (rows, SEQ)).astype(np.int32)
        for row in range(rows):  # a different number of trained tokens in every row
            self.labels[row, : row % SEQ] = IGNORED
        self.batch_size, self.seq_length, self.num_rows = batch_size, SEQ, rows
        self.seed, self.fingerprint = seed, fingerprint

    def __len__(self) -> int:
        return self.num_rows // self.batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_rows)
        for index in range(start, len(self)):
            rows = order[index * self.batch_size : (index + 1) * self.batch_size]
            yield {"input_ids": self.ids[rows], "labels": self.labels[rows]}


def weights_of(network: nn.Cell) -> dict[str, np.ndarray]:
    return {p.name: p.astype(ms.float32).asnumpy().copy() for p in network.trainable_params()}


def toy_step(network: nn.Cell | None = None, **arguments: Any) -> MFTrainOneStepCell:
    network = network or ToyNet()
    optimizer = AdamW(get_optimizer_grouped_parameters(network, 0.1), learning_rate=1e-2)
    return MFTrainOneStepCell(network, optimizer, **arguments)


class Losses(Callback):
    """Notes (step, loss, lr) of every step, and the events in the order they come."""

    def __init__(self) -> None:
        self.curve: list[tuple[int, float, float]] = []
        self.events: list[str] = []

    def on_train_begin(self, run: TrainRun) -> None:
        self.events.append("begin")

    def on_step_end(self, run: TrainRun, report: StepReport) -> None:
        self.curve.append((report.global_step, report.loss, report.lr))
        self.events.append(f"step {report.global_step}")

    def on_epoch_end(self, run: TrainRun) -> None:
        self.events.append("epoch end")

    def on_train_end(self, run: TrainRun) -> None:
        self.events.append("end")

    def on_exception(self, run: TrainRun, error: BaseException) -> None:
        self.events.append(type(error).__name__)


def report_of(**changes: Any) -> StepReport:
    """A plain report of step 2 of 100, with changes."""
    values: dict[str, Any] = {
        "global_step": 2, "total_steps": 100, "epoch": 1, "epochs": 5, "step_in_epoch": 2,
        "steps_per_epoch": 20, "loss": 11.281303, "lr": 1e-6, "grad_norm": 1.23, "overflow": False,
        "loss_scale": 1.0, "num_samples": 1, "num_tokens": 100, "num_trained_tokens": 40,
        "seconds": 1.2345, "eta_seconds": 121.7,
    }  # fmt: skip
    return StepReport(**(values | changes))
