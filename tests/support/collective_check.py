"""Every exchange and every region, values and gradients, against NumPy; run as four processes."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindformers.errors import ConfigError
from mindformers.ops import regions
from mindformers.parallel.agreement import require_same
from mindformers.parallel.layout import Layout
from mindformers.parallel.mesh import mesh
from mindformers.parallel.runtime import launched_rank, start_runtime

LARGE = 2_500_000  # float32: beyond one message


def values(rank: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng([rank, *shape]).normal(size=shape).astype(np.float32)


def every(group: object, shape: tuple[int, ...]) -> list[np.ndarray]:
    return [values(rank, shape) for rank in group.ranks]


def check_exchanges() -> None:
    active, rank = mesh(), mesh().layout.rank
    for group in (active.tensor, active.model, active.world):
        for shape in ((8, 3), (4, LARGE // 4)) if group is active.tensor else ((8, 3),):
            whole = every(group, shape)
            own = Tensor(values(rank, shape))
            total = np.sum(whole, 0)
            np.testing.assert_allclose(group.all_reduce(own).asnumpy(), total, atol=1e-5)
            np.testing.assert_array_equal(own.asnumpy(), values(rank, shape))
            np.testing.assert_array_equal(group.all_reduce(own, "max").asnumpy(), np.max(whole, 0))
            np.testing.assert_array_equal(group.all_gather(own).asnumpy(), np.concatenate(whole))
            rows = shape[0] // group.size
            np.testing.assert_allclose(
                group.reduce_scatter(own).asnumpy(),
                total[group.index * rows : (group.index + 1) * rows], atol=1e-5,
            )  # fmt: skip
        np.testing.assert_array_equal(
            group.broadcast(Tensor(values(rank, (5,))), 1).asnumpy(), values(group.ranks[1], (5,))
        )
        assert group.gather_objects({"rank": rank}) == [{"rank": each} for each in group.ranks]
        group.barrier()


def check_line() -> None:
    """Neighbours send to one another at once, more than a socket holds, and then receive."""
    rank, line = mesh().layout.rank, mesh().line
    other = rank ^ 2
    line.send(Tensor(values(rank, (5, LARGE // 5))), other)
    found = line.receive((5, LARGE // 5), ms.float32, other)
    np.testing.assert_array_equal(found.asnumpy(), values(other, (5, LARGE // 5)))


class _Weighted(nn.Cell):
    def __init__(self, change: type, weight: Tensor):
        super().__init__()
        self.region, self.weight = regions.Region(change, mesh().tensor), weight

    def construct(self, x: Tensor) -> Tensor:
        return (self.region(x) * self.weight).sum()


def check_gradients() -> None:
    """Each rank weighs the outcome its own way; the way back follows from the definition of the region."""
    group, rank = mesh().tensor, mesh().layout.rank
    size, index = group.size, group.index
    shape = (4, 3)

    def weights_of(form: tuple[int, ...]) -> list[np.ndarray]:
        return [values(100 + each, form) for each in group.ranks]

    def rows(array: np.ndarray, place: int) -> np.ndarray:
        count = len(array) // size
        return array[place * count : (place + 1) * count]

    cases = {
        regions._Enter: (shape, lambda w: np.sum(w, 0)),
        regions._Leave: (shape, lambda w: w[index]),
        regions._GatherRows: ((4 * size, 3), lambda w: rows(np.sum(w, 0), index)),
        regions._SumRows: ((4 // size, 3), np.concatenate),
        regions._OwnRows: ((4 // size, 3), np.concatenate),
    }
    for change, (form, expected) in cases.items():
        every_weight = weights_of(form)
        cell = _Weighted(change, Tensor(every_weight[index]))
        found = ms.grad(cell)(Tensor(values(rank, shape)))
        np.testing.assert_allclose(found.asnumpy(), expected(every_weight), atol=1e-5)


def check_agreement() -> None:
    require_same({"a": "1"})
    said = "b: not the same on all processes: 0 on rank 0, 1 on rank 3"
    with pytest.raises(ConfigError, match=said):
        require_same({"a": "1", "b": str(mesh().layout.rank // 3)})


def main() -> None:
    layout = Layout(tensor=2, pipeline=2, rank=launched_rank())
    start_runtime(device_target="CPU", mode=1, layout=layout)
    check_exchanges()
    check_line()
    check_gradients()
    check_agreement()
    print("all well")


if __name__ == "__main__":
    main()
