"""What weights start from."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter

from mindformers.modules.start import INIT_SIGMA, not_drawn, start_weight


@pytest.mark.parametrize("dtype", [ms.float32, ms.bfloat16])
def test_a_weight_is_drawn_around_zero(dtype: ms.dtype.Type) -> None:
    weight = Parameter(start_weight((64, 96), dtype))
    values = weight.asnumpy().astype(np.float32)
    assert (weight.shape, weight.dtype) == ((64, 96), dtype)
    assert abs(values.mean()) < 3 * INIT_SIGMA / 78  # sqrt(64 * 96) = 78
    np.testing.assert_allclose(values.std(), INIT_SIGMA, rtol=0.05)


def test_nothing_is_drawn_for_a_network_that_gets_its_weights_from_files() -> None:
    with not_drawn():
        assert not Parameter(start_weight((8, 8), ms.float32)).asnumpy().any()
    assert Parameter(start_weight((8, 8), ms.float32)).asnumpy().any()


def test_a_failure_inside_does_not_stop_later_draws() -> None:
    with pytest.raises(ValueError, match="no room"), not_drawn():
        raise ValueError("no room")
    assert Parameter(start_weight((8, 8), ms.float32)).asnumpy().any()
