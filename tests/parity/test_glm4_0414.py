"""Values of Hugging Face's Glm4ForCausalLM, the network of GLM-4-0414 and GLM-Z1.

Goldens of scripts/make_glm4_0414_goldens.py: norms behind attention and MLP, with and without attention biases,
several numbers of key/value heads, left padding, positions beyond 0.
"""

from __future__ import annotations

import pytest

from mindformers.generation.runner import CachedRunner
from mindformers.parallel.runtime import start_runtime
from tests.support.golden_model import CASES_0414, TRAIN_CASES_0414, GoldenCase
from tests.support.networks import golden_network
from tests.support.parity import check_adamw_steps, check_first_step, check_greedy, check_logits

pytestmark = pytest.mark.parity
every_case = pytest.mark.parametrize("case", CASES_0414, ids=lambda case: case.name)
training_case = pytest.mark.parametrize("case", TRAIN_CASES_0414, ids=lambda case: case.name)


@every_case
def test_logits_of_a_left_padded_batch_equal_the_oracle(
    case: GoldenCase, pynative: None, backend: str
) -> None:
    check_logits(case)


def test_logits_equal_the_oracle_in_a_compiled_graph() -> None:
    start_runtime(device_target="CPU", mode=0)
    check_logits(CASES_0414[4])
    start_runtime(device_target="CPU", mode=1)


@every_case
def test_64_greedy_tokens_of_unequal_prompts_equal_the_oracle(
    case: GoldenCase, pynative: None, native: None
) -> None:
    check_greedy(case, use_past=True)


def test_64_greedy_tokens_equal_the_oracle_by_the_portable_form() -> None:
    start_runtime(device_target="CPU", mode=0)
    network = golden_network(CASES_0414[1])
    network._runners[True] = CachedRunner(network, chunk=5)
    check_greedy(CASES_0414[1], use_past=True, network=network)
    start_runtime(device_target="CPU", mode=1)


def test_64_greedy_tokens_equal_the_oracle_without_a_cache(pynative: None, native: None) -> None:
    check_greedy(CASES_0414[2], use_past=False)


@training_case
def test_loss_and_every_gradient_of_a_step_equal_the_oracle(
    case: GoldenCase, pynative: None, backend: str
) -> None:
    check_first_step(case, f"{case.name}_training")


def test_loss_and_gradients_equal_the_oracle_in_a_compiled_graph() -> None:
    start_runtime(device_target="CPU", mode=0)
    check_first_step(CASES_0414[2], f"{CASES_0414[2].name}_training")
    start_runtime(device_target="CPU", mode=1)


@training_case
def test_losses_and_parameters_of_ten_adamw_steps_equal_the_oracle(
    case: GoldenCase, pynative: None, native: None
) -> None:
    check_adamw_steps(case, f"{case.name}_training")
