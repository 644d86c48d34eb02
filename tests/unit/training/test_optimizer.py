"""AdamW against PyTorch's over ten steps (golden file), and its state."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from mindformers.errors import CheckpointError, ConfigError
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.optimizer import AdamW
from mindformers.training.param_groups import get_optimizer_grouped_parameters
from tests.support.compare import assert_close
from tests.unit.training.toy import ToyNet

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "training" / "adamw.npz"
TOLERANCE = 1e-6  # tighter than an operator's: ten steps must not drift apart


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files}


def build(golden, dtype=ms.float32, **arguments):
    matrix = Parameter(Tensor(golden["start.matrix"]).astype(dtype), name="matrix")
    bias = Parameter(Tensor(golden["start.bias"]).astype(dtype), name="bias")
    groups = get_optimizer_grouped_parameters([matrix, bias], float(golden["weight_decay"]))
    betas, eps = golden["betas"].tolist(), float(golden["eps"])
    return AdamW(groups, betas=betas, eps=eps, **arguments)


def grads_of(golden, step):
    return [Tensor(golden[f"grad.{name}"][step]) for name in ("matrix", "bias")]


@pytest.mark.parametrize("kind", ["plain", "clip"])
def test_ten_steps_equal_pytorchs_adamw(mode, golden, kind):
    optimizer = build(golden)
    for step, lr in enumerate(golden["lr"]):
        norm = float(golden[f"{kind}.norm"][step])
        scale = min(1.0, float(golden["max_norm"]) / (norm + 1e-6)) if kind == "clip" else 1.0
        optimizer.apply(grads_of(golden, step), float(lr), scale)
        for index, name in enumerate(("matrix", "bias")):
            found = optimizer.parameters[index].asnumpy()
            assert_close(found, golden[f"{kind}.{name}"][step], TOLERANCE, f"{name}, step {step}")
    state = optimizer.state_dict()
    for name in ("adam_m.matrix", "adam_v.matrix", "adam_m.bias", "adam_v.bias"):
        assert_close(state[name], golden[f"{kind}.{name}"][-1], TOLERANCE, name)
    assert optimizer.step == 10


@pytest.mark.parametrize("dtype", [ms.bfloat16, ms.float16])
def test_a_weight_of_lower_precision_follows_its_float32_master(mode, golden, dtype):
    optimizer = build(golden, dtype)
    start = [p.astype(ms.float32).asnumpy() for p in optimizer.parameters]
    reference = build(golden | {"start.matrix": start[0], "start.bias": start[1]})
    for step in range(3):
        optimizer.apply(grads_of(golden, step), 1e-3)
        reference.apply(grads_of(golden, step), 1e-3)
    state = optimizer.state_dict()
    for parameter, exact in zip(optimizer.parameters, reference.parameters, strict=True):
        assert parameter.dtype == dtype
        assert_close(state[f"master.{parameter.name}"], exact.asnumpy(), TOLERANCE)
        rounded = exact.astype(dtype).astype(ms.float32).asnumpy()
        assert_close(parameter.astype(ms.float32).asnumpy(), rounded, TOLERANCE)


def test_master_copies_are_taken_from_weights_loaded_after_the_optimizer_was_built(
    pynative, golden
):
    optimizer = build(golden, ms.float16)
    optimizer.parameters[1].set_data(Tensor(np.full(5, 3.0), ms.float16))
    optimizer.apply(grads_of(golden, 0), 0.0)
    assert optimizer.parameters[1].asnumpy().tolist() == [3.0] * 5


def test_a_learning_rate_of_zero_changes_moments_only(pynative, golden):
    optimizer = build(golden)
    optimizer.apply(grads_of(golden, 0), 0.0)
    assert optimizer.parameters[0].asnumpy().tolist() == golden["start.matrix"].tolist()
    assert_close(optimizer.state_dict()["adam_m.bias"], 0.1 * golden["grad.bias"][0], TOLERANCE)


def test_a_restored_optimizer_goes_on_with_the_same_bits(mode, golden):
    unbroken = build(golden)
    for step in range(6):
        unbroken.apply(grads_of(golden, step), 1e-2)
        if step == 2:
            saved = {name: array.copy() for name, array in unbroken.state_dict().items()}
            weights = [p.asnumpy().copy() for p in unbroken.parameters]
    resumed = build(golden | {"start.matrix": weights[0], "start.bias": weights[1]})
    resumed.load_state(saved, step=3)
    for step in range(3, 6):
        resumed.apply(grads_of(golden, step), 1e-2)
    for one, other in zip(unbroken.parameters, resumed.parameters, strict=True):
        assert one.asnumpy().tobytes() == other.asnumpy().tobytes()


def test_matrices_decay_but_biases_and_norm_weights_do_not(pynative):
    network = ToyNet()
    network.head.requires_grad = False
    groups = get_optimizer_grouped_parameters(network, 0.1)
    assert [(group["weight_decay"], [p.name for p in group["params"]]) for group in groups] == [
        (0.1, ["embedding", "layers.0.weight", "layers.1.weight"]),
        (0.0, ["layers.0.bias", "layers.1.bias"]),
    ]


def test_a_two_dimensional_bias_does_not_decay(pynative):
    bias = Parameter(Tensor(np.zeros((2, 2), np.float32)), name="experts.bias")
    assert get_optimizer_grouped_parameters([bias], 0.1)[0]["weight_decay"] == 0.0


def test_the_optimizer_is_registered_under_upstreams_name():
    assert MindFormerRegister.get_cls(MindFormerModuleType.OPTIMIZER, "AdamW") is AdamW


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"betas": [0.9, 1.0]}, "optimizer.betas: is [0.9, 1.0]; allowed: two numbers in [0, 1)"),
        ({"eps": 0}, "optimizer.eps: is 0; allowed: a number above 0"),
        (
            {"learning_rate": -1e-3},
            "optimizer.learning_rate: is -0.001; allowed: a number, 0 or more",
        ),
        ({"weight_decay": -0.1}, "optimizer.weight_decay: is -0.1; allowed: a number, 0 or more"),
        ({"amsgrad": True}, "optimizer.amsgrad: True is not implemented; allowed: False"),
        ({"amsgrd": True}, "optimizer.amsgrd: no such argument; did you mean 'amsgrad'?"),
    ],
)
def test_a_wrong_argument_is_refused_with_its_key(pynative, arguments, message):
    with pytest.raises(ConfigError) as caught:
        AdamW(ToyNet().trainable_params(), **arguments)
    assert str(caught.value).startswith(message)


def test_wrong_groups_are_refused(pynative):
    parameter = ToyNet().head
    for params, message in [
        ([], "there is no parameter to train; unfreeze some of the model"),
        ([{"params": [parameter], "lr": 1.0}], "optimizer.lr: a parameter group has no such key"),
        ([parameter, parameter], "the parameter 'head' is given to the optimizer twice"),
    ]:
        with pytest.raises(ConfigError) as caught:
            AdamW(params)
        assert str(caught.value).startswith(message)


def test_a_state_of_another_model_is_refused_by_name_and_shape(pynative, golden):
    optimizer = build(golden)
    state = optimizer.state_dict()
    for changed, message in [
        ({k: v for k, v in state.items() if k != "adam_m.bias"},
         "adam_m.bias: is missing from the optimizer state"),
        (state | {"adam_m.biaz": state["adam_m.bias"]},
         "adam_m.biaz: is unknown; it is in the optimizer state; did you mean 'adam_m.bias' or"),
        (state | {"adam_v.bias": np.zeros(4, np.float32)},
         "adam_v.bias: has shape (4,); allowed: (5,)"),
    ]:  # fmt: skip
        with pytest.raises(CheckpointError) as caught:
            optimizer.load_state(changed, 1)
        assert str(caught.value).startswith(message)
