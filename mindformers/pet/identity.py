"""Which base weights an adapter was trained on: a short mark of them, the same in every layout and type."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from mindformers.errors import CheckpointError

SAMPLES = 4096  # of each piece, evenly spaced: reading all of 9 billion weights would take a minute


def base_mark(network: Any) -> str:
    """Return a mark of a network's weights without adapters, 64 hex digits.

    It is taken over evenly spaced values of every piece of every weight. Another finetuning of the
    same model has another mark; so has the same model rounded to another type.
    """
    parameters = network.weight_parameters()
    digest = hashlib.sha256()
    marks = {}
    for stored in network.layout_tensors():
        array = parameters[stored.name].asnumpy()
        start = 0
        for piece in stored.pieces:
            rows = array[start : start + piece.shape[0]].reshape(-1)
            sample = rows[:: -(-rows.size // SAMPLES)].astype("<f4")
            marks[piece.name] = hashlib.sha256(np.ascontiguousarray(sample).data).digest()
            start += piece.shape[0]
    for name in sorted(marks):  # layouts list the pieces in different orders
        digest.update(name.encode() + marks[name])
    return digest.hexdigest()


def check_base(network: Any, mark: str | None, where: str) -> None:
    """Refuse adapters that were trained on other weights than the network has.

    Args:
        network: The network, its weights loaded.
        mark: What ``base_mark`` gave when the adapters were saved; None: not known.
        where: The adapters, for the error.

    Raises:
        CheckpointError: If the marks differ.
    """
    if mark is not None and mark != base_mark(network):
        raise CheckpointError(
            "the adapters were trained on other weights than the network holds",
            where=where,
            fix="load the weights they were trained on, in the same type (param_init_type) and not quantized",
        )
