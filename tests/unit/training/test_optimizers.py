"""SGD, AdaFactor and Muon against PyTorch and transformers (golden file), Lion by hand; what all optimizers share."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from mindformers.errors import ConfigError
from mindformers.parallel.runtime import start_runtime
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.muon import orthogonal
from mindformers.training.optimizer import SGD, AdaFactor, AdamW, Lion, Muon
from mindformers.training.param_groups import get_optimizer_grouped_parameters
from mindformers.training.train_step import MFTrainOneStepCell
from tests.support.compare import BF16, assert_close
from tests.unit.training.toy import ToyData, ToyNet

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "training" / "optimizers.npz"
NAMES = ("wide", "tall", "bias")
TOLERANCE = 2e-6  # tighter than an operator's: ten steps must not drift apart
EVERY = {
    "AdamW": (AdamW, {}),
    "SGD": (SGD, {"momentum": 0.9}),
    "Lion": (Lion, {}),
    "AdaFactor": (AdaFactor, {"beta1": 0.9}),
    "Muon": (Muon, {}),
}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files}


def build(golden, kind, names=NAMES, dtype=ms.float32, **arguments):
    parameters = [Parameter(Tensor(golden[f"start.{n}"]).astype(dtype), name=n) for n in names]
    return kind(get_optimizer_grouped_parameters(parameters, 0.1), **arguments)


def names_of(optimizer):
    return [parameter.name for parameter in optimizer.parameters]


def grads_of(optimizer, golden, step):
    return [Tensor(golden[f"grad.{name}"][step]) for name in names_of(optimizer)]


def train(optimizer, golden, steps):
    for step in steps:
        optimizer.apply(grads_of(optimizer, golden, step), float(golden["lr"][step]))


def values_of(optimizer):
    return {p.name: p.astype(ms.float32).asnumpy().copy() for p in optimizer.parameters}


@pytest.mark.parametrize(
    ("case", "kind", "arguments"),
    [
        ("sgd", SGD, {}),
        ("sgd_momentum", SGD, {"momentum": 0.9, "dampening": 0.1}),
        ("sgd_nesterov", SGD, {"momentum": 0.9, "nesterov": True}),
        ("adafactor", AdaFactor, {}),
        ("adafactor_mean", AdaFactor, {"scale_parameter": False, "beta1": 0.9}),
        ("adafactor_relative", AdaFactor, {"relative_step": True}),
        ("adafactor_warmup", AdaFactor, {"relative_step": True, "warmup_init": True}),
    ],
)
def test_ten_steps_equal_the_original(mode, golden, case, kind, arguments):
    optimizer = build(golden, kind, **arguments)
    own = optimizer.learning_rate
    for step, lr in enumerate(golden["lr"]):
        rate = own(step) if callable(own) else float(lr)
        optimizer.apply(grads_of(optimizer, golden, step), rate)
        for name, value in values_of(optimizer).items():
            assert_close(value, golden[f"{case}.{name}"][step], TOLERANCE, f"{name}, step {step}")
    assert optimizer.step == 10


def test_muons_matrices_follow_pytorchs(pynative, golden):
    """PyTorch iterates in bfloat16, so that the updates agree to its precision only."""
    optimizer = build(golden, Muon, ("wide", "tall"))
    for step, lr in enumerate(golden["lr"]):
        before = values_of(optimizer)
        optimizer.apply(grads_of(optimizer, golden, step), float(lr))
        for name, value in values_of(optimizer).items():
            start = golden[f"start.{name}"] if step == 0 else golden[f"muon.{name}"][step - 1]
            expected = (golden[f"muon.{name}"][step] - start) / lr
            assert_close((value - before[name]) / lr, expected, 2 * BF16, f"{name}, step {step}")


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """The same polynomial on the singular values alone, float64: another way to the same matrix."""
    left, sizes, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    sizes = sizes / np.linalg.norm(sizes)
    for _ in range(5):
        sizes = 3.4445 * sizes - 4.7750 * sizes**3 + 2.0315 * sizes**5
    return left @ np.diag(sizes) @ right


@pytest.mark.parametrize("shape", [(3, 5), (6, 4), (4, 4)])
def test_newton_schulz_changes_the_singular_values_alone(pynative, shape):
    matrix = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    found = orthogonal(Tensor(matrix), 5).asnumpy()
    assert_close(found, newton_schulz(matrix), 1e-5)
    assert np.all(abs(np.linalg.svd(found)[1] - 1) < 0.4)


def test_muon_by_hand_and_adamw_for_the_rest(pynative, golden):
    muon = build(golden, Muon, momentum=0.9, adamw_betas=(0.9, 0.95))
    adamw = build(golden, AdamW, ("bias",), betas=(0.9, 0.95))
    weight, mean = golden["start.tall"].astype(np.float64), np.zeros((6, 4))
    for step, lr in enumerate(golden["lr"]):
        grad = golden["grad.tall"][step]
        mean = 0.9 * mean + 0.1 * grad
        update = newton_schulz(0.9 * mean + 0.1 * grad)
        weight = weight * (1 - lr * 0.1) - lr * 0.2 * np.sqrt(6) * update
    train(muon, golden, range(10))
    train(adamw, golden, range(10))
    assert_close(values_of(muon)["tall"], weight, 1e-4)
    assert_close(values_of(muon)["bias"], values_of(adamw)["bias"], 0)
    assert sorted(muon.state_dict()) == ["adam_m.bias", "adam_v.bias", "muon_m.tall", "muon_m.wide"]


def test_muon_leaves_tables_of_tokens_to_adamw(pynative):
    names = ("transformer.embedding.word_embeddings.weight", "transformer.output_layer.weight",
             "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight")  # fmt: skip
    weights = [Parameter(Tensor(np.ones((4, 3), np.float32)), name=name) for name in names]
    kinds = {name.partition(".")[::2] for name in Muon(weights).state_dict()}
    assert kinds == {(k, n) for n in names[:2] for k in ("adam_m", "adam_v")} | {
        ("muon_m", names[2])
    }


def test_lion_by_hand(mode, golden):
    optimizer = build(golden, Lion, betas=(0.9, 0.98))
    state = {name: [golden[f"start.{name}"].astype(np.float64), 0.0] for name in NAMES}
    for step, lr in enumerate(golden["lr"]):
        optimizer.apply(grads_of(optimizer, golden, step), float(lr), 0.5)
        for name, (weight, mean) in state.items():
            grad, decay = 0.5 * golden[f"grad.{name}"][step], 0.0 if name == "bias" else 0.1
            update = np.sign(0.9 * mean + 0.1 * grad) + decay * weight
            state[name] = [weight - lr * update, 0.98 * mean + 0.02 * grad]
    for name, value in values_of(optimizer).items():
        assert_close(value, state[name][0], TOLERANCE, name)


@pytest.mark.parametrize("name", EVERY)
def test_a_restored_optimizer_goes_on_with_the_same_bits(backend, pynative, golden, name):
    kind, arguments = EVERY[name]
    arguments = arguments | {"ema_decay": 0.9}
    unbroken = build(golden, kind, dtype=ms.bfloat16, **arguments)
    train(unbroken, golden, range(3))
    saved = {key: array.copy() for key, array in unbroken.state_dict().items()}
    weights = {f"start.{key}": value for key, value in values_of(unbroken).items()}
    resumed = build(golden | weights, kind, dtype=ms.bfloat16, **arguments)
    resumed.load_state(saved, step=3)
    train(unbroken, golden, range(3, 6))
    train(resumed, golden, range(3, 6))
    for key, value in resumed.state_dict().items():
        assert value.tobytes() == unbroken.state_dict()[key].tobytes(), key
    for key, value in values_of(resumed).items():
        assert value.tobytes() == values_of(unbroken)[key].tobytes(), key


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [ms.bfloat16, ms.float16])
def test_a_weight_of_lower_precision_follows_its_float32_copy(pynative, golden, name, dtype):
    kind, arguments = EVERY[name]
    lower = build(golden, kind, dtype=dtype, **arguments)
    start = {f"start.{key}": value for key, value in values_of(lower).items()}
    exact = build(golden | start, kind, **arguments)
    train(lower, golden, range(4))
    train(exact, golden, range(4))
    for parameter, other in zip(lower.parameters, exact.parameters, strict=True):
        assert parameter.dtype == dtype
        assert_close(lower.state_dict()[f"master.{parameter.name}"], other.asnumpy(), TOLERANCE)
        rounded = other.astype(dtype).astype(ms.float32).asnumpy()
        assert_close(parameter.astype(ms.float32).asnumpy(), rounded, TOLERANCE)


@pytest.mark.parametrize("name", EVERY)
def test_a_groups_factor_multiplies_its_learning_rate_alone(backend, pynative, golden, name):
    kind, arguments = EVERY[name]
    both, whole, half = ([Parameter(Tensor(golden[f"start.{n}"]), name=n) for n in ("wide", "tall")]
                         for _ in range(3))  # fmt: skip
    groups = [{"params": [both[0]], "lr_scale": 0.5}, {"params": [both[1]]}]
    optimizer = kind(groups, weight_decay=0.1, **arguments)
    train(optimizer, golden, range(4))
    for parameters, factor in ((whole, 1.0), (half, 0.5)):
        other = kind(parameters, weight_decay=0.1, **arguments)
        for step in range(4):
            other.apply(grads_of(other, golden, step), factor * float(golden["lr"][step]))
    assert_close(both[0].asnumpy(), half[0].asnumpy(), 1e-6, "wide")
    assert_close(both[1].asnumpy(), whole[1].asnumpy(), 1e-6, "tall")
    assert abs(both[0].asnumpy() - whole[0].asnumpy()).max() > 1e-3


@pytest.mark.parametrize("name", EVERY)
def test_a_learning_rate_of_zero_leaves_the_weights(pynative, golden, name):
    kind, arguments = EVERY[name]
    optimizer = build(golden, kind, **arguments)
    before = values_of(optimizer)
    optimizer.apply(grads_of(optimizer, golden, 0), 0.0)
    for key, value in values_of(optimizer).items():
        assert value.tolist() == before[key].tolist()


@pytest.mark.parametrize("dtype", [ms.float32, ms.bfloat16])
@pytest.mark.parametrize("name", EVERY)
def test_the_average_follows_its_closed_form(backend, pynative, golden, name, dtype):
    kind, arguments = EVERY[name]
    optimizer = build(golden, kind, dtype=dtype, ema_decay=0.75, **arguments)
    mean = {key: value.astype(np.float64) for key, value in values_of(optimizer).items()}
    for step in range(5):
        train(optimizer, golden, [step])
        for index, key in enumerate(names_of(optimizer)):
            exact = optimizer.target(index).asnumpy()
            mean[key] = 0.75 * mean[key] + 0.25 * exact
    for key, expected in mean.items():
        assert_close(optimizer.state_dict()[f"ema.{key}"], expected, TOLERANCE, key)


@pytest.mark.parametrize("name", [*EVERY, "Adafactor"])
def test_every_optimizer_is_registered_under_its_name(name):
    known = EVERY["AdaFactor" if name == "Adafactor" else name][0]
    assert MindFormerRegister.get_cls(MindFormerModuleType.OPTIMIZER, name) is known


def test_sgd_without_momentum_and_adafactor_without_a_mean_keep_almost_nothing(pynative, golden):
    assert build(golden, SGD).state_dict() == {}
    shapes = {key: value.shape for key, value in build(golden, AdaFactor).state_dict().items()}
    assert shapes == {
        "adafactor_row.wide": (3,), "adafactor_column.wide": (5,), "adafactor_row.tall": (6,),
        "adafactor_column.tall": (4,), "adafactor_v.bias": (5,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (SGD, {"momentum": 1.0}, "optimizer.momentum: is 1.0; allowed: a number in [0, 1)"),
        (SGD, {"nesterov": True}, "optimizer.nesterov: is True with momentum 0.0 and dampening 0"),
        (SGD, {"loss_scale": 2.0}, "optimizer.loss_scale: 2.0 is not implemented; allowed: 1.0"),
        (Lion, {"betas": [0.9]}, "optimizer.betas: is [0.9]; allowed: two numbers in [0, 1)"),
        (AdaFactor, {"decay_rate": -0.8}, "optimizer.decay_rate: is -0.8; allowed: a number above"),
        (AdaFactor, {"eps": [1e-30]}, "optimizer.eps: is [1e-30]; allowed: two numbers above 0"),
        (AdaFactor, {"warmup_init": True}, "optimizer.warmup_init: is True; allowed: False without"),
        (AdaFactor, {"compression": True}, "optimizer.compression: True is not implemented"),
        (Muon, {"ns_steps": 0}, "optimizer.ns_steps: is 0; allowed: a whole number, 1 or more"),
        (Muon, {"swap": True}, "optimizer.swap: True is not implemented; allowed: False"),
        (AdamW, {"ema_decay": 1.0}, "optimizer.ema_decay: is 1.0; allowed: a number in [0, 1)"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused_with_its_key(pynative, kind, arguments, message):
    with pytest.raises(ConfigError) as caught:
        kind(ToyNet().trainable_params(), **arguments)
    assert str(caught.value).startswith(message)


def test_a_factor_below_zero_is_refused(pynative):
    with pytest.raises(ConfigError) as caught:
        AdamW([{"params": ToyNet().trainable_params(), "lr_scale": -1}])
    assert str(caught.value).startswith("optimizer.lr_scale: is -1; allowed: a number, 0 or more")


@pytest.mark.parametrize("name", ["SGD", "Muon"])
def test_a_network_that_runs_as_a_graph_trains_as_in_pynative(name):
    """What an optimizer sets from outside reaches the compiled network."""
    curves = []
    try:
        for mode in (1, 0):
            start_runtime(device_target="CPU", mode=mode, seed=1)
            network = ToyNet(layers=1)
            kind, arguments = EVERY[name]
            step = MFTrainOneStepCell(network, kind(network.trainable_params(), **arguments))
            curves.append([step([each], 0.05).loss for each in ToyData().batches(0)])
    finally:
        start_runtime(device_target="CPU", mode=1)
    assert_close(curves[1], curves[0], 1e-5)
    assert len(set(curves[0])) == 6
