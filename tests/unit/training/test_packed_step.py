"""Packed rows train a network as their documents would alone: same loss, same gradients, any form of the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindformers.errors import ConfigError, DataError
from mindformers.parallel.runtime import start_runtime
from mindformers.training.optimizer import AdamW
from mindformers.training.train_step import MFTrainOneStepCell
from tests.support.glm_gradients import loss_and_gradients
from tests.support.golden_model import CASES
from tests.support.networks import golden_network, ints

CASE = CASES[0]
LENGTHS = (5, 1, 9, 3, 6)
TOKENS = 16
SAME = 1e-6  # norm of the difference over the norm, of each weight's gradient
# Both forms of a batch, of the norm: float32 against float64, layer upon layer.
TRUE = 3e-6


def documents() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    found = []
    for length in LENGTHS:
        labels = rng.integers(0, CASE.vocab, length)
        labels[: length // 3] = -100
        found.append((rng.integers(1, CASE.vocab, length), labels))
    return found


def padded() -> dict[str, np.ndarray]:
    """One document a row, filled up."""
    ids, labels = np.zeros((5, TOKENS), np.int32), np.full((5, TOKENS), -100, np.int32)
    for row, (own, learnt) in enumerate(documents()):
        ids[row, : len(own)], labels[row, : len(own)] = own, learnt
    return {"input_ids": ids, "labels": labels}


def packed() -> dict[str, np.ndarray]:
    """The same documents in two rows, with filling in the second."""
    ids, labels = np.zeros((2, TOKENS), np.int32), np.full((2, TOKENS), -100, np.int32)
    starts = np.tile(np.arange(TOKENS, dtype=np.int32), (2, 1))
    found = documents()
    for row, members in enumerate(((2, 4, 1), (0, 3))):
        at = 0
        for own, learnt in (found[member] for member in members):
            end = at + len(own)
            ids[row, at:end], labels[row, at:end], starts[row, at:end] = own, learnt, at
            at = end
    return {"input_ids": ids, "labels": labels, "document_starts": starts}


def step_of(**changes: Any) -> MFTrainOneStepCell:
    network = golden_network(CASE, **changes)
    return MFTrainOneStepCell(network, AdamW(network.trainable_params(), learning_rate=0.01))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def assert_same_gradients(step: MFTrainOneStepCell) -> None:
    loss, slopes = step.gradients(padded())
    again, found = step.gradients(packed())
    assert again == pytest.approx(loss, rel=1e-6)
    for parameter, one, other in zip(step.optimizer.parameters, slopes, found, strict=True):
        assert relative(other.asnumpy(), one.asnumpy()) < SAME, parameter.name


def test_loss_and_gradients_equal_those_of_the_documents_alone(
    backend: str, pynative: None
) -> None:
    assert_same_gradients(step_of())


def test_gradients_of_either_form_are_those_of_float64(backend: str, pynative: None) -> None:
    step = step_of()
    weights = {parameter.name: parameter.asnumpy() for parameter in step.optimizer.parameters}
    truths = []
    for batch in (padded(), packed()):
        given = (batch["input_ids"], batch["labels"], batch.get("document_starts"))
        loss, truth = loss_and_gradients(weights, CASE, *given)
        truths.append(truth)
        found, slopes = step.gradients(batch)
        assert found == pytest.approx(loss, rel=1e-6)
        for name, one in zip(weights, slopes, strict=True):
            assert relative(one.asnumpy(), truth[name]) < TRUE, name
    for name, one in truths[0].items():
        assert relative(truths[1][name], one) < 1e-14, name


def test_the_same_in_a_compiled_graph() -> None:
    start_runtime(device_target="CPU", mode=0, seed=1)
    try:
        assert_same_gradients(step_of())
    finally:
        start_runtime(device_target="CPU", mode=1)


def test_without_the_borders_the_documents_would_see_one_another(
    backend: str, pynative: None
) -> None:
    step = step_of()
    loss, _ = step.gradients(padded())
    batch = packed()
    del batch["document_starts"]
    assert step.gradients(batch)[0] != pytest.approx(loss, rel=1e-4)


def test_micro_batches_count_by_their_tokens(backend: str, pynative: None) -> None:
    whole, parts = step_of(), step_of()
    expected = whole.step([padded()], 0.01)
    batch = packed()
    rows = [{name: each[row : row + 1] for name, each in batch.items()} for row in range(2)]
    found = parts.step(rows, 0.01)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-6)
    assert found.num_trained_tokens == expected.num_trained_tokens


def test_recomputed_layers_give_the_same_gradients(pynative: None) -> None:
    step = step_of()
    step.network.recompute_layers(2)
    assert_same_gradients(step)


class Plain(nn.Cell):
    """A network that knows nothing of documents."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(np.ones(1, np.float32)), name="weight")

    def construct(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        return self.weight * labels.astype("float32").mean()


def test_a_network_without_borders_is_not_given_packed_rows(pynative: None) -> None:
    step = MFTrainOneStepCell(Plain(), AdamW(Plain().trainable_params(), learning_rate=0.01))
    with pytest.raises(
        ConfigError, match="Plain takes no document_starts.*allowed: False for this"
    ):
        step.step([packed()], 0.01)


@pytest.mark.parametrize("starts", [[0, 0, 3, 3], [0, 2, 2, 2], [0, 1, 0, 0], [-1, 0, 0, 0]])
def test_borders_out_of_order_are_refused_before_a_kernel_sees_them(
    native: None, pynative: None, starts: list[int]
) -> None:
    network = golden_network(CASE)
    ids = ints([[1, 2, 3, 4]])
    with pytest.raises(DataError, match="document_starts"):
        network.transformer(ids, document_starts=ints([starts]))
