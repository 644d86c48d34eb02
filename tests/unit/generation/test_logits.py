"""Processors on rows worked out by hand and against a plain full sort."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers.errors import GenerationError
from mindformers.generation import logits as rules
from mindformers.generation.config import GenerationConfig
from mindformers.generation.logits_pipeline import LogitsPipeline
from tests.support.generation import fresh_warnings

INF = np.inf


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_once():
    result = rules.penalize_repetition(row(2, -2, 4, 0), np.array([0, 1, 1, 3]), 2.0)
    np.testing.assert_array_equal(result, row(1, -4, 4, 0))


def test_forbidden_ids_are_ruled_out_and_ids_outside_the_vocabulary_ignored():
    np.testing.assert_array_equal(rules.forbid_ids(row(1, 2, 3), [1, 9]), row(1, -INF, 3))
    np.testing.assert_array_equal(rules.forbid_from(row(1, 2, 3), 1), row(1, -INF, -INF))


def test_presence_counts_a_token_once_and_frequency_each_time():
    result = rules.penalize_presence(row(1, 2, 3, 4), np.array([1, 3, 3]), 0.5, 0.25)
    np.testing.assert_array_equal(result, row(1, 1.25, 3, 3))


def test_a_bias_is_added_and_ids_outside_the_vocabulary_ignored():
    bias = rules.Bias({0: -100.0, 2: 1.5, 9: 1}, 3)
    np.testing.assert_array_equal(bias(row(1, 2, 3)), row(-99, 2, 4.5))


def test_the_last_token_of_a_bad_word_is_ruled_out_once_its_beginning_was_read():
    words = rules.BadWords([[7], [1, 2], [5, 1, 3], [1, 1, 9], [1, 4]])
    assert words.banned_after(np.array([5, 1])) == [7, 2, 4, 3]
    assert words.banned_after(np.array([1])) == [7, 2, 4]
    assert words.banned_after(np.array([4])) == [7]


def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest():
    logits = np.log(row(0.1, 0.4, 0.3, 0.2))
    np.testing.assert_array_equal(rules.keep_min_p(logits, 0.51) > -INF, [False, True, True, False])
    np.testing.assert_array_equal(rules.keep_min_p(logits, 1.0) > -INF, [False, True, False, False])
    assert rules.keep_min_p(logits, 0.0) is logits


def test_temperature_divides():
    np.testing.assert_allclose(rules.apply_temperature(row(1, -2, -INF), 0.5), row(2, -4, -INF))


def test_normalize_gives_log_probabilities():
    result = rules.normalize(row(np.log(2) + 700, np.log(6) + 700, -INF))
    np.testing.assert_allclose(np.exp(result), [0.25, 0.75, 0], rtol=1e-4)


def test_top_k_keeps_exactly_k_and_the_lower_id_of_equals():
    np.testing.assert_array_equal(rules.keep_top_k(row(3, 5, 3, 3, 1), 3), row(3, 5, 3, -INF, -INF))
    for off in (0, 5, 6):
        np.testing.assert_array_equal(rules.keep_top_k(row(3, 5, 3, 3, 1), off), row(3, 5, 3, 3, 1))


def test_top_p_keeps_the_token_that_crosses_the_threshold():
    logits = np.log(row(0.1, 0.5, 0.15, 0.25))
    kept = {p: np.flatnonzero(rules.keep_top_p(logits, p) > -INF).tolist() for p in
            (0, 0.49, 0.51, 0.74, 0.76, 0.91, 1)}  # fmt: skip
    assert kept == {0: [1], 0.49: [1], 0.51: [1, 3], 0.74: [1, 3], 0.76: [1, 2, 3],
                    0.91: [0, 1, 2, 3], 1: [0, 1, 2, 3]}  # fmt: skip


def test_top_p_counts_only_what_top_k_left():
    logits = np.log(row(0.4, 0.3, 0.2, 0.1))
    cut = rules.keep_top_p(rules.keep_top_k(logits, 2), 0.55)  # 0.4 of 0.7 is 0.571
    assert np.flatnonzero(cut > -INF).tolist() == [0]


@pytest.mark.parametrize("spread", [0.0, 0.01, 2.0])
@pytest.mark.parametrize("k", [1, 50, 3000])
def test_the_coarse_search_keeps_what_a_full_sort_keeps(spread, k):
    logits = (np.random.default_rng(k).normal(0, 1, 151_552) * spread).astype(np.float32)
    order = np.argsort(-logits, kind="stable")
    assert set(np.flatnonzero(rules.keep_top_k(logits, k) > -INF)) == set(order[:k])
    weights = np.exp(logits[order].astype(np.float64))
    mass = np.cumsum(weights) / weights.sum()
    wanted = order[: np.searchsorted(mass, 0.3) + 1]
    assert set(np.flatnonzero(rules.keep_top_p(logits, 0.3) > -INF)) == set(wanted)


def pipeline(processors=(), allowed=None, **settings):
    return LogitsPipeline(GenerationConfig(**settings), 4, processors, allowed)


def test_the_models_own_row_is_never_changed():
    logits = row(1, 2, 3, 4)
    steps = pipeline(
        [lambda scores, ids: scores.__imul__(2)], allowed=3, do_sample=True, temperature=2.0,
        top_k=2, top_p=0.9, repetition_penalty=2.0, min_new_tokens=3, eos_token_id=0,
        renormalize_logits=True,
    )  # fmt: skip
    scores = steps(logits, np.array([1, 1], np.int32), 1)
    np.testing.assert_array_equal(logits, row(1, 2, 3, 4))
    assert np.isneginf(scores[[0, 3]]).all()  # min_new_tokens, and an id without a token


def test_min_length_counts_the_prompt_and_min_new_tokens_does_not():
    ids = np.array([1, 2, 3], np.int32)  # two of the prompt, one of the answer
    for settings, banned in (
        ({"min_length": 4}, True), ({"min_length": 3}, False),
        ({"min_new_tokens": 2}, True), ({"min_new_tokens": 1}, False),
    ):  # fmt: skip
        scores = pipeline(eos_token_id=[0], **settings)(row(9, 1, 1, 1), ids, 2)
        assert np.isneginf(scores[0]) == banned


def test_a_users_rule_sees_one_row_and_the_real_ids_and_comes_before_the_ban():
    seen = []

    class Favour(rules.LogitsProcessor):
        def process_np(self, logits, sequence_ids):
            seen.append((logits.shape, sequence_ids.tolist()))
            logits[:, 2:] = 100
            return logits

    scores = pipeline(rules.LogitsProcessorList([Favour()]), allowed=3)(
        row(1, 2, 3, 4), np.array([3, 1], np.int32), 1
    )
    assert seen == [((1, 4), [[3, 1]])]
    np.testing.assert_array_equal(scores, row(1, 2, 100, -INF))


def test_the_base_rule_changes_nothing_and_a_single_function_is_taken():
    ids = np.array([0], np.int32)
    np.testing.assert_array_equal(pipeline(rules.LogitsProcessor())(row(1, 2, 3, 4), ids, 1),
                                  row(1, 2, 3, 4))  # fmt: skip
    np.testing.assert_array_equal(pipeline(lambda s, _: s + 1)(row(1, 2, 3, 4), ids, 1),
                                  row(2, 3, 4, 5))  # fmt: skip
    assert rules.check_processors(None) == []


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (
            rules.LogitsProcessor,
            r"LogitsProcessor is a class; pass an instance: LogitsProcessor\(\)",
        ),
        ([3], "3 cannot be called"),
    ],
)
def test_what_is_no_rule_is_refused(processor, message):
    with pytest.raises(GenerationError, match=message):
        pipeline(processor)


@pytest.mark.parametrize(
    ("result", "message"),
    [(None, "returned None"), (np.zeros(4, np.float32), r"returned shape \(4,\).*\(1, 4\)")],
)
def test_a_rule_that_returns_something_else_is_named(result, message):
    with pytest.raises(GenerationError, match=f"logits processor function: {message}"):
        pipeline(lambda scores, ids: result)(row(1, 2, 3, 4), np.array([0], np.int32), 1)


def test_a_top_k_above_the_vocabulary_is_noted(caplog, monkeypatch):
    fresh_warnings(monkeypatch)
    scores = pipeline(do_sample=True, top_k=9)(row(1, 2, 3, 4), np.array([0], np.int32), 1)
    assert np.isfinite(scores).all()
    assert "top_k 9 is above the vocabulary of 4 ids" in caplog.text


def test_a_processor_that_only_knows_tensors_is_refused_instead_of_ignored() -> None:
    class Own(rules.LogitsProcessor):
        def process_ms(self, logits, sequence_ids):
            return logits

    with pytest.raises(GenerationError, match=r"Own has process_ms only.*override process_np"):
        rules.check_processors([Own()])

    class Both(Own):
        def process_np(self, logits, sequence_ids):
            return logits

    assert len(rules.check_processors([Both()])) == 1


class Only:
    """A constraint that allows some ids."""

    def __init__(self, *ids):
        self.ids = list(ids)

    def allowed(self):
        mask = np.zeros(4, bool)
        mask[self.ids] = True
        return mask

    def accept(self, token):
        pass

    def copy(self):
        return self


def scores_of(logits, ids, prompt_length, constraint=None, **settings):
    steps = pipeline(**settings)
    return steps(logits, np.array(ids, np.int32), prompt_length, constraint=constraint)


def test_penalties_count_the_answer_alone_and_come_after_the_bias():
    found = scores_of(
        row(1, 2, 3, 4),
        [0, 1, 1],
        1,
        presence_penalty=1.0,
        frequency_penalty=0.5,
        logit_bias={1: 9},
    )
    np.testing.assert_array_equal(found, row(1, 9, 3, 4))


def test_bad_words_may_begin_in_the_prompt():
    found = scores_of(row(1, 2, 3, 4), [0, 2], 2, bad_words_ids=[[2, 3], [1]])
    np.testing.assert_array_equal(found, row(1, -INF, 3, -INF))


def test_what_a_constraint_leaves_can_be_chosen_also_where_it_is_banned_otherwise():
    banned = {"min_new_tokens": 3, "eos_token_id": 0}
    np.testing.assert_array_equal(
        scores_of(row(1, 2, 3, 4), [1], 1, Only(0, 2), **banned), row(-INF, -INF, 3, -INF)
    )
    np.testing.assert_array_equal(
        scores_of(row(1, 2, 3, 4), [1], 1, Only(0), **banned), row(1, -INF, -INF, -INF)
    )


def test_min_p_comes_after_the_temperature(backend):
    logits = np.log(row(0.1, 0.4, 0.3, 0.2))
    settings = {"do_sample": True, "top_k": 0, "min_p": 0.6}
    cold = scores_of(logits, [0], 1, temperature=0.5, **settings)  # 0.16 : 0.09 : 0.04 : 0.01
    warm = scores_of(logits, [0], 1, temperature=2.0, **settings)
    assert np.flatnonzero(cold > -INF).tolist() == [1]
    assert np.flatnonzero(warm > -INF).tolist() == [1, 2, 3]
