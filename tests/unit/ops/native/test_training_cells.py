"""Networks of native cells: the same losses and gradients as portable ones, frozen weights, modes, memory."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
from mindformers.ops import activation, attention, embedding, linear, norm
from mindformers.ops.native import cells, library, memory, training
from mindformers.ops.native.build import find_compiler
from mindformers.parallel.runtime import start_runtime
from mindformers.training.optimizer import AdamW
from mindformers.training.train_step import MFTrainOneStepCell
from tests.support.compare import assert_close
from tests.support.golden_model import CASES
from tests.support.networks import golden_config, golden_network, ints

CASE = CASES[0]
Build = Callable[..., ChatGLM2ForConditionalGeneration]


@pytest.fixture
def build(pynative: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Build]:
    """Build a training network with the golden weights in the form that is named."""
    if find_compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setattr(library, "_chosen", [""])

    def build_network(form: str, **changes: Any) -> ChatGLM2ForConditionalGeneration:
        library.choose_backend(form)
        if changes.keys() & {"qkv_concat", "mlp_concat", "post_mlp_layernorm"}:
            ms.set_seed(3)
            network = ChatGLM2ForConditionalGeneration(golden_config(CASE, **changes))
            rng = np.random.default_rng(1)
            for parameter in network.get_parameters():
                values = rng.normal(0, 0.2, parameter.shape).astype(np.float32)
                parameter.set_data(Tensor(values + ("norm" in parameter.name)))
        else:
            network = golden_network(CASE, **changes)
        return network.set_train(True)

    yield build_network
    ms.set_context(mode=ms.PYNATIVE_MODE)


def batch(rows: int = 2, tokens: int = 7) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(5)
    ids = rng.integers(1, CASE.vocab, (rows, tokens))
    labels = rng.integers(0, CASE.vocab, (rows, tokens))
    labels[0, :3] = -100
    return ints(ids), ints(labels)


def gradients(
    network: ChatGLM2ForConditionalGeneration, **inputs: Any
) -> tuple[float, dict[str, np.ndarray]]:
    parameters = ms.ParameterTuple(network.trainable_params())
    ids, labels = batch()

    def loss(ids: Tensor, labels: Tensor) -> Tensor:
        return network(ids, labels, **inputs)

    found, slopes = ms.value_and_grad(loss, None, parameters)(ids, labels)
    return float(found.asnumpy()[0]), {
        each.name: slope.asnumpy().astype(np.float32)
        for each, slope in zip(parameters, slopes, strict=True)
    }


def assert_same(first: tuple, second: tuple, tolerance: float = 1e-5) -> None:
    assert first[0] == pytest.approx(second[0], abs=tolerance)
    assert first[1].keys() == second[1].keys()
    for name, slope in first[1].items():
        assert_close(slope, second[1][name], tolerance, name)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qkv_concat": False, "mlp_concat": False},
        {"post_self_attn_layernorm": True, "post_mlp_layernorm": True},
        {"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 64}},
    ],
)
def test_native_gradients_equal_the_portable_ones(build: Build, changes: dict[str, Any]) -> None:
    native = build("native", **changes)
    assert isinstance(native.transformer.output_layer.product, cells.NativeLinear)
    assert_same(gradients(native), gradients(build("portable", **changes)))


def test_a_mask_of_pads_and_positions_of_ones_own(build: Build) -> None:
    pads = np.ones((2, 7), np.int32)
    pads[0, :3] = 0  # where the labels are -100 too
    positions = np.maximum(np.cumsum(pads, 1) - 1, 0)
    inputs = {"attention_mask": ints(pads), "position_ids": ints(positions)}
    native, portable = build("native"), build("portable")
    assert_same(gradients(native, **inputs), gradients(portable, **inputs))


def test_a_mask_that_is_not_causal_takes_the_portable_form(build: Build) -> None:
    hidden = np.triu(np.ones((2, 7, 7), np.int32), 1)
    hidden[:, 4:, 1] = 1
    native, portable = build("native"), build("portable")
    found = gradients(native, attention_mask=ints(hidden))
    assert_same(found, gradients(portable, attention_mask=ints(hidden)))
    assert found[0] != pytest.approx(gradients(native)[0], abs=1e-4)


def test_two_runs_and_a_run_that_recomputes_give_the_same_bits(build: Build) -> None:
    first, second = gradients(build("native")), gradients(build("native"))
    network = build("native")
    network.recompute_layers(2)
    third = gradients(network)
    for other in (second, third):
        assert first[0] == other[0]
        for name, slope in first[1].items():
            np.testing.assert_array_equal(slope, other[1][name], name)


def test_a_directional_derivative_of_the_loss_equals_the_gradient(build: Build) -> None:
    network = build("native")
    _, slopes = gradients(network)
    rng = np.random.default_rng(7)
    start = {p.name: p.asnumpy().copy() for p in network.trainable_params()}
    direction = {name: rng.normal(size=each.shape) for name, each in start.items()}
    ids, labels = batch()

    def loss_at(step: float) -> float:
        for parameter in network.trainable_params():
            moved = start[parameter.name] + step * direction[parameter.name]
            parameter.set_data(Tensor(moved.astype(np.float32)))
        return float(network(ids, labels).asnumpy()[0])

    expected = sum((slopes[name] * direction[name]).sum() for name in slopes)
    found = (loss_at(1e-3) - loss_at(-1e-3)) / 2e-3
    assert found == pytest.approx(expected, rel=5e-3)


def test_a_frozen_weight_gets_no_gradient_computed(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build("native")
    everything = gradients(network)[1]
    for parameter in network.get_parameters():
        parameter.requires_grad = "dense_h_to_4h" in parameter.name
    asked: list[tuple] = []
    backward = training.linear_backward

    def recorded(x: Any, weight: Tensor, dout: Tensor, needs: Any) -> Any:
        asked.append((weight.shape, x is None, tuple(needs)[1]))
        return backward(x, weight, dout, needs)

    monkeypatch.setattr(training, "linear_backward", recorded)
    found = gradients(network)[1]
    assert set(found) == {name for name in everything if "dense_h_to_4h" in name}
    for name, slope in found.items():
        np.testing.assert_array_equal(slope, everything[name])
    trained = (2 * CASE.ffn, CASE.hidden)
    assert all(has_slope == (shape == trained) for shape, _, has_slope in asked)
    assert all(is_dropped != has_slope for _, is_dropped, has_slope in asked)


def test_bfloat16_weights_train_with_a_master_copy_in_both_forms(build: Build) -> None:
    after = []
    for form in ("native", "portable"):
        network = build(form, param_init_type="bfloat16")
        optimizer = AdamW(network.trainable_params(), weight_decay=0.1)
        step = MFTrainOneStepCell(network, optimizer, use_clip_grad=True)
        ids, labels = (each.asnumpy() for each in batch())
        losses = [step([{"input_ids": ids, "labels": labels}], 0.01).loss for _ in range(3)]
        masters = [each["master"].asnumpy() for each in optimizer.slots if "master" in each]
        assert masters
        after.append((losses, masters))
    assert_close(after[0][0], after[1][0], 2e-2)
    # The portable form rounds the gradients to bfloat16, and AdamW's first steps are all of size lr.
    assert all(
        np.mean(abs(a - b) < 2e-2) > 0.99 for a, b in zip(after[0][1], after[1][1], strict=True)
    )


def test_without_a_single_label_the_loss_and_the_gradients_are_zero(build: Build) -> None:
    network = build("native")
    ids = batch()[0]
    parameters = ms.ParameterTuple(network.trainable_params())
    labels = ints(np.full((2, 7), -100))
    loss, slopes = ms.value_and_grad(network, None, parameters)(ids, labels)
    assert float(loss.asnumpy()[0]) == 0
    assert not any(slope.asnumpy().any() for slope in slopes)


def test_the_loss_scale_reaches_the_gradients_of_the_head(build: Build) -> None:
    network = build("native")
    ids, labels = batch()
    weight = network.transformer.output_layer.weight

    def scaled(ids: Tensor, labels: Tensor, factor: Tensor) -> Tensor:
        return network(ids, labels) * factor

    slope = ms.value_and_grad(scaled, None, ms.ParameterTuple([weight]))
    once = slope(ids, labels, Tensor(1.0, ms.float32))[1][0].asnumpy().copy()
    assert_close(slope(ids, labels, Tensor(4.0, ms.float32))[1][0].asnumpy(), 4 * once)


def test_where_graphs_are_compiled_cells_are_portable(
    build: Build, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mindformers"), "propagate", True)
    library.choose_backend("native")
    start_runtime(mode=ms.GRAPH_MODE)
    assert isinstance(norm.build_rms_norm(1e-5, ms.float32, ms.float32), norm.PortableRmsNorm)
    assert isinstance(activation.build_swiglu(8), activation.PortableSwiGlu)
    assert isinstance(linear.build_linear_product(ms.float32, ms.float32), linear.PortableLinear)
    gather = embedding.build_embedding(ms.float32, ms.float32)
    assert isinstance(gather, embedding.PortableEmbedding)
    assert isinstance(attention.build_mask(), attention.PortableMask)
    with caplog.at_level(logging.INFO, "mindformers"):
        start_runtime(mode=ms.GRAPH_MODE, has_native_cells=True)
    assert "native kernels: networks run in PyNative mode" in caplog.text
    assert ms.get_context("mode") == ms.PYNATIVE_MODE


def test_memory_is_used_again_but_never_while_something_looks_at_it(
    pynative: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = memory._Pool()
    monkeypatch.setattr(memory, "_pool", pool)
    first = memory.empty((100, 1000))
    array = first.asnumpy()
    array[:] = 7
    address = first.data_ptr()
    del first
    gc.collect()
    assert memory.empty((100, 1000)).data_ptr() != address
    assert (array == 7).all()
    del array
    gc.collect()
    assert pool.in_use == 0
    again = {memory.empty((100, 1000)).data_ptr(), memory.empty((90, 1000)).data_ptr()}
    assert address in again
    kept = [memory.empty((size, 1000)) for size in (200, 400, 800)]
    assert pool.in_use + pool.kept <= 1.25 * pool.most
    del kept
    gc.collect()
    assert pool.in_use == 0
