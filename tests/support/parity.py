"""What a golden network must give: the oracle's logits, greedy ids, loss, gradients and trained weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
from mindformers.training.optimizer import AdamW
from mindformers.training.param_groups import get_optimizer_grouped_parameters
from mindformers.training.train_step import MFTrainOneStepCell
from tests.support.compare import MODEL_FP32, assert_close
from tests.support.golden_model import GoldenCase, our_weights, padded_batch, training_batches
from tests.support.networks import golden_network, ints

GOLDEN = Path(__file__).parents[1] / "golden" / "parity"


def golden(name: str) -> dict[str, np.ndarray]:
    """Return the oracle's values of a case."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def golden_of_kind(name: str, kind: str, layers: int) -> dict[str, np.ndarray]:
    """Return the golden arrays ``kind/...`` (``grad``, ``after``) under our names."""
    arrays = golden(name).items()
    return our_weights(
        {n.removeprefix(f"{kind}/"): v for n, v in arrays if n.startswith(f"{kind}/")}, layers
    )


def check_logits(case: GoldenCase, network: ChatGLM2ForConditionalGeneration | None = None) -> None:
    """Compare the logits of a left-padded batch, at the positions of real tokens."""
    network = network or golden_network(case)
    network.set_train(False)
    ids, mask, positions = padded_batch(case)
    logits = network(ints(ids), position_ids=ints(positions), attention_mask=ints(mask))[0]
    real = mask.astype(bool)
    assert_close(logits.asnumpy()[real], golden(case.name)["logits"][real], MODEL_FP32, case.name)


def check_greedy(
    case: GoldenCase, use_past: bool, network: ChatGLM2ForConditionalGeneration | None = None
) -> None:
    """Compare 64 greedy ids after prompts of unequal lengths."""
    ids, mask, _ = padded_batch(case)
    network = network or golden_network(case)
    output = network.generate(ids, attention_mask=mask, max_new_tokens=64, use_past=use_past)
    for row, expected in enumerate(golden(case.name)["greedy"]):
        assert output[row][mask[row].sum() :].tolist() == expected.tolist()


def check_first_step(case: GoldenCase, name: str) -> None:
    """Compare the loss of a batch and the gradient of every weight with the training golden ``name``."""
    network = golden_network(case)
    network.set_train(True)
    ids, labels = training_batches(case, 1)[0]
    loss, gradients = value_and_gradients(network, ids, labels)
    assert loss.shape == (1,)
    assert_close(loss.asnumpy()[0], golden(name)["losses"][0], 1e-6)
    ours = golden_of_kind(name, "grad", case.layers)
    assert set(ours) == set(gradients)
    for weight, gradient in gradients.items():
        scale = np.abs(ours[weight]).max()
        assert np.abs(gradient - ours[weight]).max() <= MODEL_FP32 * scale, weight


def check_adamw_steps(case: GoldenCase, name: str) -> None:
    """Compare losses and parameters of ten AdamW steps with the training golden ``name``."""
    settings = json.loads((GOLDEN / "versions.json").read_text())["adamw"]
    network = golden_network(case)
    groups = get_optimizer_grouped_parameters(network, settings["weight_decay"])
    optimizer = AdamW(
        groups, learning_rate=settings["lr"], betas=settings["betas"], eps=settings["eps"]
    )
    step = MFTrainOneStepCell(network, optimizer)
    losses = []
    for ids, labels in training_batches(case, 10):
        batch = {"input_ids": ids.astype(np.int32), "labels": labels.astype(np.int32)}
        losses.append(step([batch], settings["lr"]).loss)
    assert_close(losses, golden(name)["losses"], MODEL_FP32)
    ours = golden_of_kind(name, "after", case.layers)
    gradients = golden_of_kind(name, "grad", case.layers)
    for weight, parameter in network.weight_parameters().items():
        # A key bias on a channel that does not rotate moves all scores of a query alike: its gradient is
        # zero but for rounding, which AdamW blows up to whole steps in either implementation.
        counts = (
            np.abs(gradients[weight]) > 1e-6
            if weight.endswith("bias")
            else np.ones(parameter.shape, bool)
        )
        assert counts.mean() > 0.9
        found, wanted = parameter.asnumpy()[counts], ours[weight][counts]
        # A rare token's first gradients may be 1e-5, where rounding is a percent of AdamW's whole step.
        assert_close(found, wanted, MODEL_FP32, weight)
        # With another order of sums it is another weight's, one or two of a small matrix's 1536.
        assert np.isclose(found, wanted, rtol=1e-5, atol=1e-5).mean() > 0.998


class _LossAndGradients(ms.nn.Cell):
    def __init__(self, network: ChatGLM2ForConditionalGeneration):
        super().__init__(auto_prefix=False)
        self.network = network
        self.weights = ms.ParameterTuple(network.trainable_params())
        self.both = ms.value_and_grad(self.forward, None, self.weights)

    def forward(self, ids, labels):
        return self.network(ids, labels)

    def construct(self, ids, labels):
        return self.both(ids, labels)


def value_and_gradients(
    network: ChatGLM2ForConditionalGeneration, ids: Any, labels: Any
) -> tuple[ms.Tensor, dict[str, np.ndarray]]:
    """Return the loss of a batch and the gradient of every trainable weight by name."""
    loss, gradients = _LossAndGradients(network)(ints(ids), ints(labels))
    return loss, {
        p.name: g.asnumpy() for p, g in zip(network.trainable_params(), gradients, strict=True)
    }
