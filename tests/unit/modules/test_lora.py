"""``LoraLinear``: values and gradients against NumPy float64, its start, what is frozen."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import ParameterTuple, Tensor

from mindformers.config.pet import LoraSection
from mindformers.modules.linear import Linear
from mindformers.modules.lora import LoraLinear

TOKENS, WIDTH, OUT, RANK = 12, 20, 28, 4


def layer(has_bias: bool = True, dtype: ms.dtype.Type = ms.float32, **settings) -> LoraLinear:
    base = Linear(WIDTH, OUT, has_bias=has_bias, param_dtype=dtype, compute_dtype=ms.float32)
    return LoraLinear(base, LoraSection(**{"lora_rank": RANK, "lora_dropout": 0.0, **settings}))


def fill(cell: LoraLinear, seed: int = 1) -> dict[str, np.ndarray]:
    """Give every parameter random values; return them in float64."""
    rng = np.random.default_rng(seed)
    values = {}
    for parameter in cell.get_parameters():
        value = Tensor(rng.standard_normal(parameter.shape).astype(np.float32))
        parameter.set_data(value.astype(parameter.dtype))
        values[parameter.name] = parameter.asnumpy().astype(np.float64)
    return values


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("settings", [{"lora_alpha": 6}, {"lora_alpha": 6, "use_rslora": True}])
def test_values_and_gradients_are_those_of_float64(
    has_bias: bool, settings: dict, backend: str, mode: int
) -> None:
    cell = layer(has_bias, **settings)
    v = fill(cell)
    rng = np.random.default_rng(2)
    x, dout = rng.standard_normal((TOKENS, WIDTH)), rng.standard_normal((TOKENS, OUT))
    scale = 6 / 2 if settings.get("use_rslora") else 6 / 4
    low, high = v["mindpet_delta_lora_a"], v["mindpet_delta_lora_b"]
    expected = x @ (v["weight"] + scale * high @ low).T + v.get("bias", 0)

    def weighted(x: Tensor, dout: Tensor) -> Tensor:
        return (cell(x) * dout).sum()

    given = [Tensor(each.astype(np.float32)) for each in (x, dout)]
    np.testing.assert_allclose(cell(given[0]).asnumpy(), expected, rtol=1e-4, atol=1e-4)
    trained = ParameterTuple(cell.trainable_params())
    _, (dx, grads) = ms.value_and_grad(weighted, 0, trained)(*given)
    np.testing.assert_allclose(
        dx.asnumpy(), dout @ (v["weight"] + scale * high @ low), rtol=1e-4, atol=1e-4
    )
    found = {p.name: grad.asnumpy() for p, grad in zip(trained, grads, strict=True)}
    assert sorted(found) == ["mindpet_delta_lora_a", "mindpet_delta_lora_b"]
    np.testing.assert_allclose(
        found["mindpet_delta_lora_a"], scale * high.T @ dout.T @ x, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        found["mindpet_delta_lora_b"], scale * dout.T @ (x @ low.T), rtol=1e-4, atol=1e-4
    )


@pytest.mark.usefixtures("pynative")
def test_a_new_adapter_changes_nothing_and_starts_as_pefts() -> None:
    cell = layer()
    low, high = cell.mindpet_delta_lora_a.asnumpy(), cell.mindpet_delta_lora_b.asnumpy()
    assert (low.shape, high.shape) == ((RANK, WIDTH), (OUT, RANK))
    assert not high.any()
    bound = WIDTH**-0.5  # kaiming_uniform_(a=sqrt(5))
    wide = LoraLinear(cell.base, LoraSection(lora_rank=2000)).mindpet_delta_lora_a.asnumpy()
    assert 0.99 * bound < np.abs(wide).max() <= bound
    assert wide.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    normal = LoraLinear(cell.base, LoraSection(lora_rank=2000, lora_a_init="normal"))
    assert normal.mindpet_delta_lora_a.asnumpy().std() == pytest.approx(0.01, rel=0.02)
    x = Tensor(np.random.default_rng(3).standard_normal((TOKENS, WIDTH)).astype(np.float32))
    np.testing.assert_array_equal(cell(x).asnumpy(), cell.base(x).asnumpy())


@pytest.mark.usefixtures("pynative")
def test_dropout_acts_on_the_adapter_alone_and_only_in_training() -> None:
    cell = layer(lora_dropout=0.5)
    v = fill(cell)
    x = np.random.default_rng(3).standard_normal((TOKENS, WIDTH)).astype(np.float32)
    cell.set_train(False)
    quiet = cell(Tensor(x)).asnumpy()
    np.testing.assert_array_equal(cell(Tensor(x)).asnumpy(), quiet)
    cell.set_train(True)
    assert np.abs(cell(Tensor(x)).asnumpy() - quiet).max() > 0.1
    cell.mindpet_delta_lora_b.set_data(Tensor(np.zeros((OUT, RANK), np.float32)))
    base = x @ v["weight"].T + v["bias"]
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), base, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("pynative")
def test_the_merged_weight_is_computed_in_float32_whatever_the_base_is_stored_in() -> None:
    cell = layer(dtype=ms.bfloat16, lora_alpha=6)
    v = fill(cell)
    expected = v["weight"] + 1.5 * v["mindpet_delta_lora_b"] @ v["mindpet_delta_lora_a"]
    merged = cell.merged()
    assert merged.dtype == np.float32
    np.testing.assert_allclose(merged, expected, rtol=1e-5, atol=1e-5)
    x = np.random.default_rng(4).standard_normal((TOKENS, WIDTH)).astype(np.float32)
    found = cell(Tensor(x)).asnumpy()
    np.testing.assert_allclose(found, x @ merged.T + v["bias"], rtol=1e-4, atol=1e-4)
