"""What weights start from: drawn at random, or nothing where those of a checkpoint are about to come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import mindspore as ms
from mindspore import Tensor
from mindspore.common.initializer import Normal, initializer

INIT_SIGMA = 0.01  # upstream's Normal(0.01) for every weight
_IS_DRAWN = ContextVar("is_drawn", default=True)


@contextmanager
def not_drawn() -> Iterator[None]:
    """Give the weights of networks built inside zeros: drawing them would take longer than loading them."""
    token = _IS_DRAWN.set(False)
    try:
        yield
    finally:
        _IS_DRAWN.reset(token)


def start_weight(shape: Sequence[int], dtype: ms.dtype.Type) -> Tensor:
    """Return the start of a weight (out, in), normal around 0 unless in ``not_drawn``."""
    return initializer(Normal(INIT_SIGMA) if _IS_DRAWN.get() else "zeros", tuple(shape), dtype)
