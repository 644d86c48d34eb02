"""RMSNorm, SwiGLU and casts against NumPy float64."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindformers.ops.activation import build_swiglu
from mindformers.ops.backend import compute_dtype
from mindformers.ops.cast import CastTo, Keep, build_cast
from mindformers.ops.norm import PortableRmsNorm, build_rms_norm
from tests.support.compare import BF16, assert_close


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_rms_norm_equals_the_formula_for_small_and_large_inputs(scale: float, mode: int) -> None:
    rng = np.random.default_rng(3)
    x, weight = (
        (scale * rng.standard_normal((5, 33))).astype(np.float32),
        rng.random(33).astype(np.float32),
    )
    got = build_rms_norm(1.5625e-07, ms.float32, ms.float32)(Tensor(x), Tensor(weight)).asnumpy()
    wide = x.astype(np.float64)
    assert_close(got, wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1.5625e-07) * weight)


def test_rms_norm_keeps_the_type_that_comes_in_and_computes_in_float32(pynative: None) -> None:
    x = np.random.default_rng(4).standard_normal((3, 16)).astype(np.float32)
    norm = PortableRmsNorm(1e-5, ms.bfloat16, ms.float32)
    got = norm(Tensor(x).astype(ms.bfloat16), Tensor(np.ones(16, np.float32)))
    assert got.dtype == ms.bfloat16
    assert_close(
        got.astype(ms.float32).asnumpy(), x / np.sqrt((x**2).mean(-1, keepdims=True)), BF16
    )


def test_swiglu_takes_the_gate_from_the_first_half(mode: int) -> None:
    x = np.random.default_rng(5).standard_normal((4, 22)).astype(np.float32)
    gate, up = x[:, :11].astype(np.float64), x[:, 11:]
    assert_close(build_swiglu(11)(Tensor(x)).asnumpy(), gate / (1 + np.exp(-gate)) * up)


def test_a_cast_to_the_same_type_is_left_out(pynative: None) -> None:
    assert isinstance(build_cast(ms.float32, ms.float32), Keep)
    assert isinstance(build_cast(ms.bfloat16, ms.float32), CastTo)
    assert compute_dtype("bfloat16") == ms.float32
