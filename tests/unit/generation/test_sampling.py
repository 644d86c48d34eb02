"""Draws follow the probabilities, exactly and reproducibly."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers.errors import GenerationError
from mindformers.generation import logits as rules
from mindformers.generation import sampling

FOUR = np.log(np.array([0.1, 0.4, 0.3, 0.2], np.float32))


def test_greedy_takes_the_lowest_id_of_equals():
    assert sampling.choose_greedy(np.array([1, 3, 3, 2], np.float32)) == 1


def test_probabilities_are_exact_and_only_of_what_may_be_drawn():
    scores = rules.keep_top_k(FOUR, 2)
    ids, weights = sampling.probabilities(scores)
    assert ids.tolist() == [1, 2]
    assert weights.dtype == np.float64
    np.testing.assert_allclose(weights, [4 / 7, 3 / 7], rtol=1e-6)


def test_one_logit_far_above_the_others_does_not_overflow():
    ids, weights = sampling.probabilities(np.array([3e38, -3e38, 0], np.float32))
    assert ids.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(weights, [1, 0, 0])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (FOUR, [0.1, 0.4, 0.3, 0.2]),
        (rules.keep_top_k(FOUR, 3), [0, 4 / 9, 3 / 9, 2 / 9]),
        (rules.keep_top_p(FOUR, 0.6), [0, 4 / 7, 3 / 7, 0]),
        (rules.apply_temperature(FOUR, 0.5), [1 / 30, 16 / 30, 9 / 30, 4 / 30]),
    ],
)
def test_draws_have_the_distribution_by_a_chi_square_test(scores, expected):
    draws, generator = 20_000, sampling.row_generator(7, 0)
    counts = np.bincount(
        [sampling.choose_sampled(scores, generator) for _ in range(draws)], minlength=4
    )
    expected = np.array(expected) * draws
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    statistic = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert statistic < 16.27  # 99.9 % of a chi-square with 3 degrees of freedom


def test_a_draw_is_the_place_of_the_number_in_the_cumulated_probabilities():
    class Fixed:
        def __init__(self, value):
            self.value = value

        def random(self):
            return self.value

    places = {0.0: 0, 0.099: 0, 0.101: 1, 0.499: 1, 0.501: 2, 0.799: 2, 0.801: 3, 1 - 2**-53: 3}
    for number, token in places.items():
        assert sampling.choose_sampled(FOUR, Fixed(number)) == token


def test_rows_draw_different_numbers_and_a_seed_repeats_them():
    first = [sampling.row_generator(5, row).random() for row in range(4)]
    assert len(set(first)) == 4
    assert first == [sampling.row_generator(5, row).random() for row in range(4)]
    assert sampling.row_generator(6, 0).random() != first[0]
    assert sampling.row_generator(2**64 - 1, 0).random() != sampling.row_generator(0, 0).random()


def test_without_a_seed_a_seeded_process_repeats_itself_and_calls_differ():
    state = np.random.get_state()
    try:
        np.random.seed(3)
        first = [sampling.call_seed(None), sampling.call_seed(None)]
        np.random.seed(3)
        assert first == [sampling.call_seed(None), sampling.call_seed(None)]
        assert first[0] != first[1]
    finally:
        np.random.set_state(state)


def test_every_seed_of_64_bits_is_taken():
    for seed in (0, 2**32, 2**64 - 1, np.int64(5)):
        assert sampling.call_seed(seed) == int(seed)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "7", True])
def test_another_seed_is_refused(seed):
    with pytest.raises(
        GenerationError, match=r"^seed: found .*allowed: a whole number from 0 to 2"
    ):
        sampling.call_seed(seed)
