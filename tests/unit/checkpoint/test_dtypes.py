from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from mindformers.checkpoint.dtypes import BY_NAME, cast, is_finite, weight_type
from mindformers.errors import CheckpointError, ConfigError


def test_float32_to_bfloat16_rounds_to_nearest_even():
    # 1 + 2^-8 lies halfway between 1 and 1 + 2^-7; 1 + 3 * 2^-8 halfway to the next
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, -3.14159], np.float32)
    found = cast(values, BY_NAME["bfloat16"], "w").astype(np.float32)
    assert found.tolist() == [1.0, 1 + 2**-6, -3.140625]


def test_every_bfloat16_survives_float32_and_back():
    every = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    every = every[~np.isnan(every.astype(np.float32))]
    there = cast(every, BY_NAME["float32"], "w")
    assert cast(there, BY_NAME["bfloat16"], "w").tobytes() == every.tobytes()


def test_a_value_too_large_for_float16_is_named():
    with pytest.raises(CheckpointError, match="layer.w: value 70000 does not fit into float16"):
        cast(np.array([1.0, -70000.0], np.float32), BY_NAME["float16"], "layer.w")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_is_found(dtype, bad):
    values = np.ones((3, 5)).astype(dtype)
    assert is_finite(values)
    assert is_finite(values[:0])
    values[2, 4] = bad
    assert not is_finite(values)


@pytest.mark.parametrize(
    ("spelled", "name"),
    [("fp32", "float32"), ("mindspore.bfloat16", "bfloat16"), ("Float16", "float16")],
)
def test_types_are_known_by_the_spellings_users_give(spelled, name):
    assert weight_type(spelled).name == name


def test_an_unknown_type_is_refused_with_the_choices():
    with pytest.raises(
        ConfigError, match="unknown weight type 'int8'; allowed: fp32, fp16 or bf16"
    ):
        weight_type("int8")
