"""Scores of rows by a MindSpore network, whole or this process's share of one.

Letters: B rows of a batch, S tokens of a row, T = B * S, H hidden, R tokens with a label, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindformers.config.columns import IGNORED_LABEL
from mindformers.config.rules import FLASH_MULTIPLE
from mindformers.evaluation.native_scorer import most_labels
from mindformers.evaluation.rows import Ids, TokenRow
from mindformers.evaluation.score import TokenScore, score_logits, total
from mindformers.ops.backend import active_backend, compute_dtype
from mindformers.parallel.mesh import mesh


class _Hidden(nn.Cell):
    """What the output layer takes, compiled once for all shapes in graph mode."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network
        if ms.get_context("mode") == ms.GRAPH_MODE:
            self.set_inputs(Tensor(shape=[None, None], dtype=ms.int32))

    def construct(self, input_ids: Tensor) -> Tensor:
        """Return (T, H) for ids (B, S)."""
        return self.network.transformer.head_input(self.network.transformer(input_ids))


class _Logits(nn.Cell):
    """Logits of some tokens."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network
        self.cast = ops.Cast()
        if ms.get_context("mode") == ms.GRAPH_MODE:
            kind = compute_dtype(network.config.compute_dtype)
            hidden = Tensor(shape=[None, network.config.hidden_size], dtype=kind)
            self.set_inputs(hidden, Tensor(shape=[None], dtype=ms.int32))

    def construct(self, hidden: Tensor, picked: Tensor) -> Tensor:
        """Return (R, V) float32 for hidden states (T, H) and which of them, (R,) int32."""
        rows = ops.gather(hidden, picked, 0)
        return self.cast(self.network.transformer.head_logits(rows), ms.float32)


class NetworkScorer:
    """Scores rows with a network; every process that holds a share of it must be given the same rows.

    Args:
        network: The network; its ``transformer`` has ``head_input`` and ``head_logits``.
        batch_size: Rows of a pass.
    """

    def __init__(self, network: Any, *, batch_size: int):
        self.network, self.batch_size = network, batch_size
        self.mesh = mesh()
        self.hidden, self.logits = _Hidden(network), _Logits(network)
        self.most_labels = most_labels(network.config.vocab_size)

    def __call__(self, rows: Sequence[TokenRow]) -> list[TokenScore]:
        """Return the score of each row: of the labels this process computes, none before the last stage."""
        # Rows of about one length share a pass, so that little is padded.
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index].ids))
        scores = [TokenScore()] * len(rows)
        with self.network.answering():
            for first in range(0, len(order), self.batch_size):
                lot = order[first : first + self.batch_size]
                found = self._score([rows[index] for index in lot])
                for index, score in zip(lot, found, strict=True):
                    scores[index] = score
        return scores

    def _score(self, rows: Sequence[TokenRow]) -> list[TokenScore]:
        layout = self.mesh.layout
        ids, labels = self._padded(rows)
        part = ids.shape[1] // layout.context
        own = slice(layout.context_rank * part, (layout.context_rank + 1) * part)
        hidden = self._forward(np.ascontiguousarray(ids[:, own]))
        if hidden is None:
            return [TokenScore()] * len(rows)
        flat = np.ascontiguousarray(labels[:, own]).reshape(-1)  # (T,)
        parts: list[list[TokenScore]] = [[] for _ in rows]
        for picked in self._picked(flat):
            logits = np.array(self.logits(hidden, Tensor(picked)).asnumpy())
            bounds = np.searchsorted(picked, np.arange(len(rows) + 1) * part)
            for row, (first, end) in enumerate(pairwise(bounds)):
                parts[row].append(score_logits(logits[first:end], flat[picked[first:end]]))
        return [total(each) for each in parts]

    def _padded(self, rows: Sequence[TokenRow]) -> tuple[Ids, Ids]:
        """Return ids and labels, (B, S), filled up behind; S divides among the processes of a row."""
        layout = self.mesh.layout
        step = layout.context * layout.tensor
        if active_backend() == "ascend":
            step = math.lcm(step, FLASH_MULTIPLE)
        width = -(-max(1, *(len(row.ids) for row in rows)) // step) * step
        ids = np.zeros((len(rows), width), np.int32)
        labels = np.full_like(ids, IGNORED_LABEL)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)], labels[index, : len(row.ids)] = row.ids, row.labels
        return ids, labels

    def _forward(self, ids: Ids) -> Tensor | None:
        """Return what the output layer takes, (T, H); None on a stage that has none."""
        layout, line = self.mesh.layout, self.mesh.line
        given = Tensor(ids)
        if layout.pipeline == 1:
            return self.hidden(given)
        transformer, stream = self.network.transformer, None
        if not layout.is_first_stage:
            stream = line.receive(*self.network.stream_form(ids.shape), layout.neighbour(-1))
        stream = transformer(given, stream=stream)
        if layout.is_last_stage:
            return transformer.head_input(stream)
        line.send(stream, layout.neighbour(1))
        return None

    def _picked(self, labels: Ids) -> Iterator[Ids]:
        """Yield the places with a label, some at a time."""
        counted = np.flatnonzero(labels >= 0).astype(np.int32)
        for first in range(0, len(counted), self.most_labels):
            yield counted[first : first + self.most_labels]
