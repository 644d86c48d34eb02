"""The network as the native kernels see it follows the parameters."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindformers.generation.runner import RecomputeRunner
from mindformers.ops.native.library import is_native
from tests.support.golden_model import CASES
from tests.support.networks import golden_network

pytestmark = [
    pytest.mark.skipif(not is_native(), reason="the kernels are not used here"),
    pytest.mark.usefixtures("pynative"),
]


def test_it_sees_weights_norms_and_biases_that_changed_in_place() -> None:
    network = golden_network(CASES[0])
    runner = network.runner(True)
    prompt = [[3, 5, 7, 11]]
    before = runner.prefill(prompt)
    runner.release()
    for parameter in network.weight_parameters().values():
        parameter.asnumpy()[...] *= np.float32(1.5)
    after = runner.prefill(prompt)
    runner.release()
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, RecomputeRunner(network).prefill(prompt), atol=2e-5)


def test_it_sees_a_parameter_that_was_given_other_memory() -> None:
    network = golden_network(CASES[0])
    runner = network.runner(True)
    prompt = [[3, 5, 7, 11]]
    runner.prefill(prompt)
    runner.release()
    head = network.transformer.output_layer.weight
    head.set_data(Tensor(head.asnumpy()[::-1].copy(), ms.float32))
    np.testing.assert_allclose(
        runner.prefill(prompt), RecomputeRunner(network).prefill(prompt), atol=2e-5
    )
