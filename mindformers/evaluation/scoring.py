"""From a model and rows to one score, over all processes of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from mindformers.evaluation.native_scorer import NativeScorer
from mindformers.evaluation.rows import TokenRow
from mindformers.evaluation.score import TokenScore, total
from mindformers.parallel.heartbeat import beat
from mindformers.parallel.mesh import mesh

T = TypeVar("T")
LOT = 64  # rows that are scored before the next are read
Scorer = Callable[[Sequence[TokenRow]], list[TokenScore]]


def open_scorer(model: Any, batch_size: int = 8) -> Scorer:
    """Return what scores rows with a model: the native kernels where they compute all of it.

    Args:
        model: A network, or a model whose weights stay in their files.
        batch_size: Rows of a pass, where rows are padded to one length.
    """
    layout = mesh().layout
    is_whole = layout.tensor == layout.context == layout.pipeline == 1
    # The kernels would take copies of all weights that have an adapter.
    has_adapters = bool(getattr(model.config, "pet_config", None))
    if is_whole and not has_adapters and model.native_network() is not None:
        config = model.config
        return NativeScorer(
            model.native_network, block_size=config.block_size, vocab_size=config.vocab_size
        )
    from mindformers.evaluation.network_scorer import NetworkScorer  # brings MindSpore

    return NetworkScorer(model, batch_size=batch_size)


def score_rows(
    scorer: Scorer, rows: Iterable[TokenRow], on_rows: Callable[[int], None] = lambda count: None
) -> TokenScore:
    """Return the score of all rows.

    Of several copies of a model each takes some of the rows; the sums are those of all processes, so
    the result is that of one.

    Args:
        scorer: Of ``open_scorer``.
        rows: The same ones in every process.
        on_rows: Called with a number of rows that are done.
    """
    found = []
    for lot in lots(own_share(rows)):
        found += scorer(lot)
        beat("evaluation")
        on_rows(len(lot) * mesh().layout.data)
    return _joined(total(found))


def lots(rows: Iterable[T], size: int = LOT) -> Iterator[list[T]]:
    """Yield rows, or their numbers, some at a time."""
    source = iter(rows)
    while lot := list(islice(source, size)):
        yield lot


def own_share(rows: Iterable[T]) -> Iterator[T]:
    """Yield the rows this process's copy of the model takes."""
    layout = mesh().layout
    return islice(rows, layout.data_rank, None, layout.data)


def _joined(own: TokenScore) -> TokenScore:
    """Return the sums over all processes; those that share matrices all found the same."""
    layout = mesh().layout
    counts = layout.tensor_rank == 0 and layout.is_last_stage
    mine = (own.loss, own.tokens, own.correct) if counts else (0.0, 0, 0)
    return total(TokenScore(*each) for each in mesh().world.gather_objects(mine))
