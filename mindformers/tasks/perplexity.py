"""How likely a model finds text: perplexity by the labels that count.

Letters: S tokens of a row, R labels that count, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindformers.models.auto import AutoModel
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_in_files import GlmInFiles
from mindformers.tasks.token_rows import TokenRow

_PIECE = 128  # tokens whose logits are held at once
Scored = Iterator[tuple[NDArray[np.float32], NDArray[np.int32]]]  # logits (R, V) and labels (R,)


def open_to_measure(config: ChatGLM2Config, path: Path) -> Any:
    """Return the model of ``path``: its weights in their files, or the network where they cannot stay there.

    Raises:
        CheckpointError: If the files are damaged or hold another network's weights.
    """
    model = GlmInFiles.open(config, path)
    if model is None:
        model = AutoModel.from_config(config, download_checkpoint=False)
        model.load_checkpoint(path)
    return model


def perplexity(model: Any, rows: Sequence[TokenRow]) -> float:
    """Return e to the mean negative log likelihood of the labels that count.

    Args:
        model: Of ``open_to_measure``; what it has cached is gone afterwards.
        rows: What to measure on.
    """
    total, count = 0.0, 0
    with model.answering():
        scored = _in_files(model, rows) if isinstance(model, GlmInFiles) else _network(model)
        for row in rows:
            for logits, labels in scored(row):
                total += _negative_log_likelihood(logits, labels)
                count += len(labels)
    return float(np.exp(total / count))


def _in_files(model: GlmInFiles, rows: Sequence[TokenRow]) -> Callable[[TokenRow], Scored]:
    """Score a row piece by piece, what came before being in the cache."""
    network, size = model.network, model.config.block_size
    blocks = -(-max(len(row.ids) for row in rows) // size)
    network.allocate_cache(blocks)
    tables = np.arange(blocks, dtype=np.int32)[None]

    def scored(row: TokenRow) -> Scored:
        for first in range(0, len(row.ids), _PIECE):
            ids, labels = row.ids[first : first + _PIECE], row.labels[first : first + _PIECE]
            places, picked = np.arange(first, first + len(ids)), np.flatnonzero(labels >= 0)
            starts, length = np.array([0, len(ids)]), places[-1:] + 1
            yield network.run(ids, places, places, starts, length, tables, picked), labels[picked]

    return scored


def _network(network: Any) -> Callable[[TokenRow], Scored]:
    """Score the labels of a row some at a time; the row is read anew for each lot."""

    def scored(row: TokenRow) -> Scored:
        from mindspore import Tensor

        ids, counted = Tensor(row.ids[None]), np.flatnonzero(row.labels >= 0).astype(np.int32)
        for first in range(0, len(counted), _PIECE):
            picked = counted[first : first + _PIECE]
            yield network.full_logits(ids, Tensor(picked)).asnumpy(), row.labels[picked]

    return scored


def _negative_log_likelihood(logits: NDArray[np.float32], ids: NDArray[np.int32]) -> float:
    if not len(ids):
        return 0.0
    top = logits.max(axis=1, keepdims=True)
    sums = np.log(np.exp(logits - top).sum(axis=1, dtype=np.float64)) + top[:, 0]
    return float((sums - logits[np.arange(len(ids)), ids]).sum())
