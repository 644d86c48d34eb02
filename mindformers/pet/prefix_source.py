"""Reading a trained prefix: a folder, or a step of a P-tuning run. Needs no MindSpore."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindformers.checkpoint.dtypes import is_finite, not_finite
from mindformers.checkpoint.loading import open_weights
from mindformers.config.pet import PREFIX, Ptuning2Section
from mindformers.errors import CheckpointError, ConfigError
from mindformers.pet.adapter_source import base_and_mark, holds_prefix, prefix_beside

ROWS = f"{PREFIX}embedding.weight"
_FIRST = f"{PREFIX}trans.0.weight"
_PROJECTION = tuple(
    f"{PREFIX}trans.{index}.{part}" for index in (0, 2) for part in ("weight", "bias")
)


@dataclass(frozen=True)
class PrefixSource:
    """A prefix as it is stored.

    Attributes:
        where: Where it was found, for messages.
        tensors: Its tensors by the original's names, float32.
        settings: What their shapes tell; no dropout.
        mark: The mark of the weights it was trained on (see ``base_mark``); None: not known.
    """

    where: str
    tensors: dict[str, np.ndarray]
    settings: Ptuning2Section
    mark: str | None


def require_prefix(config: Any, source: str | Path) -> None:
    """Refuse to answer with a prefix that nobody trained.

    Args:
        config: The network's settings.
        source: What is loaded into it.

    Raises:
        ConfigError: If the settings ask for a prefix and ``source`` holds none.
        CheckpointError: If it cannot be opened.
    """
    if not isinstance(config.pet, Ptuning2Section):
        return
    if not holds_prefix(source) and prefix_beside(source) is None:
        raise ConfigError(
            "the settings ask for a trained prefix, and these weights hold none",
            where=str(source),
            fix="give a step of the P-tuning run or a folder saved from it, or leave pet_config and "
            "pre_seq_len out",
        )


def read_prefix(source: str | Path) -> PrefixSource:
    """Read a prefix.

    Raises:
        CheckpointError: If it is damaged or incomplete.
    """
    with open_weights(source) as weights:
        wanted = (ROWS, *(_PROJECTION if _FIRST in weights.tensors else ()))
        missing = [name for name in wanted if name not in weights.tensors]
        strange = [name for name in weights.tensors if name not in wanted]
        if missing or strange:
            raise CheckpointError(
                f"{missing[0]} is missing" if missing else f"{strange[0]} is no part of a prefix",
                where=str(source),
            )
        tensors = {}
        for name in wanted:
            tensors[name] = np.asarray(weights.read(name)).astype(np.float32)
            if not is_finite(tensors[name]):
                raise not_finite(weights.where(name))
        _, mark = base_and_mark(Path(source), weights)
    settings = Ptuning2Section(
        pre_seq_len=len(tensors[ROWS]),
        prefix_projection=_FIRST in tensors,
        projection_dim=len(tensors[_FIRST]) if _FIRST in tensors else 1,
        dropout_prob=0.0,
    )
    return PrefixSource(str(source), tensors, settings, mark)
