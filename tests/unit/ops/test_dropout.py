"""``HashedDropout``: its share, its scale, and what its choice follows from."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from mindformers.ops.dropout import HashedDropout, HostDropout, as_int32

SHAPE = (300, 200)
ONES = Tensor(np.ones(SHAPE, np.float32))


def dropout(rate: float = 0.25, salt: int = 0) -> HashedDropout:
    cell = HashedDropout(rate, Parameter(Tensor([0], ms.int32), requires_grad=False), salt)
    cell.set_train(True)
    return cell


def kept(cell: HashedDropout, draw: int) -> np.ndarray:
    cell.draw.set_data(Tensor([as_int32(draw)], ms.int32))
    return cell(ONES).asnumpy() != 0


def reference(rate: float, draw: int, salt: int) -> np.ndarray:
    """Return which elements are kept, in Python's own whole numbers."""
    found = []
    for index in range(SHAPE[1]):
        value = (index * 0x9E3779B1 ^ draw ^ salt) % 2**32
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            value = (value ^ (value >> shift)) * factor % 2**32
        value = as_int32(value ^ (value >> 16))
        found.append(value >= rate * 2**32 - 2**31)
    return np.array(found)


@pytest.mark.parametrize("rate", [0.01, 0.25, 0.9])
def test_a_share_is_dropped_and_the_mean_stays(rate: float, mode: int) -> None:
    cell = dropout(rate)
    found = cell(ONES).asnumpy()
    deviation = (rate * (1 - rate) / found.size) ** 0.5
    assert abs((found == 0).mean() - rate) < 5 * deviation
    np.testing.assert_allclose(found[found != 0], 1 / (1 - rate), rtol=1e-6)
    np.testing.assert_array_equal(found[0] != 0, reference(rate, 0, 0))
    cell.set_train(False)
    np.testing.assert_array_equal(cell(ONES).asnumpy(), ONES.asnumpy())


def test_the_choice_follows_from_draw_and_salt_alone(mode: int) -> None:
    first, other = dropout(salt=11), dropout(salt=12)
    choices = [kept(first, 1), kept(first, 2), kept(other, 1), kept(other, 2**31 + 5)]
    for index, one in enumerate(choices):
        for two in choices[:index]:  # independent: both keep 0.75 * 0.75
            assert abs((one & two).mean() - 0.5625) < 0.02
    np.testing.assert_array_equal(kept(first, 1), choices[0])
    np.testing.assert_array_equal(kept(dropout(salt=12), 2**31 + 5), choices[3])


def test_the_form_on_the_host_drops_the_same(pynative: None) -> None:
    cell = dropout(0.3, salt=2**31 + 9)
    host = HostDropout(0.3, cell.draw, 2**31 + 9)
    host.set_train(True)
    for draw in (0, 5, -7):
        cell.draw.set_data(Tensor([draw], ms.int32))
        np.testing.assert_allclose(host(ONES).asnumpy(), cell(ONES).asnumpy(), rtol=1e-6)
    host.set_train(False)
    np.testing.assert_array_equal(host(ONES).asnumpy(), ONES.asnumpy())


def test_neighbours_rows_and_columns_are_unrelated(pynative: None) -> None:
    found = kept(dropout(0.5), 77).astype(float) - 0.5
    for one, two in ((found[1:], found[:-1]), (found[:, 1:], found[:, :-1])):
        assert abs((one * two).mean()) * 4 < 0.02
    assert np.abs(found.mean(0)).max() < 0.15
    assert np.abs(found.mean(1)).max() < 0.18


def test_the_gradient_passes_where_a_value_did(mode: int) -> None:
    cell = dropout()
    weights = Tensor(np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32))

    def weighted(x: Tensor) -> Tensor:
        return (cell(x) * weights).sum()

    grad = ms.grad(weighted)(ONES).asnumpy()
    np.testing.assert_allclose(grad, cell(ONES).asnumpy() * weights.asnumpy(), rtol=1e-6)
