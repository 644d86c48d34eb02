"""Scores: sums by token, against sums written out in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mindformers.evaluation.metrics import PerplexityMetric
from mindformers.evaluation.rows import TokenRow, rows_of, turns_of
from mindformers.evaluation.score import TokenScore, score_logits, total


def by_hand(logits: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    """Return the summed loss and the number of likeliest tokens, from probabilities in float64."""
    loss, correct = 0.0, 0
    for row, label in zip(logits.astype(np.float64), labels, strict=True):
        shares = np.exp(row) / np.exp(row).sum()
        loss -= math.log(shares[label])
        correct += int(max(range(len(row)), key=row.__getitem__) == label)
    return loss, correct


def test_a_score_is_the_sum_of_the_token_losses() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (40, 11)).astype(np.float32)
    labels = generator.integers(0, 11, 40).astype(np.int32)
    loss, correct = by_hand(logits, labels)
    found = score_logits(logits.copy(), labels)
    assert found.loss == pytest.approx(loss, rel=1e-6)
    assert (found.tokens, found.correct) == (40, correct)
    assert 0 < correct < 40


def test_large_logits_neither_overflow_nor_lose_a_likely_token() -> None:
    found = score_logits(
        np.array([[1e4, -1e4], [1e4, 1e4]], np.float32), np.array([0, 1], np.int32)
    )
    assert found.loss == pytest.approx(math.log(2))


def test_perplexity_is_by_token_and_not_the_mean_of_batches() -> None:
    one, many = TokenScore(5.0, 1, 0), TokenScore(10.0, 10, 5)
    whole = total([one, many])
    assert whole.mean_loss == 15 / 11
    assert whole.perplexity == pytest.approx(math.exp(15 / 11))
    assert whole.accuracy == 5 / 11
    assert whole.mean_loss != (one.mean_loss + many.mean_loss) / 2


def test_nothing_and_hopeless_tokens_give_numbers_that_are_not_finite() -> None:
    assert math.isnan(TokenScore().mean_loss)
    assert TokenScore(1e6, 1).perplexity == math.inf
    assert total([]) == TokenScore()


def test_the_metric_takes_what_a_network_gives_and_counts_by_token() -> None:
    generator = np.random.default_rng(1)
    metric, loss, count = PerplexityMetric(), 0.0, 0
    for rows, counted in ((2, 1), (1, 5)):
        logits = generator.normal(0, 2, (rows, 7, 13)).astype(np.float32)
        labels = generator.integers(0, 13, (rows, 7)).astype(np.int32)
        mask = np.zeros((rows, 7), np.float32)
        mask[0, 1 : 1 + counted] = 1
        metric.update(logits, labels, mask)
        for place in range(1, 1 + counted):  # position t foresees the label at t + 1
            loss += by_hand(logits[0, place - 1 : place], labels[0, place : place + 1])[0]
            count += 1
    assert metric.eval() == {
        "loss": pytest.approx(loss / count, rel=1e-6),
        "PPL": pytest.approx(math.exp(loss / count), rel=1e-6),
    }
    metric.clear()
    assert math.isnan(metric.eval()["loss"])


def test_rows_end_behind_their_last_label() -> None:
    ids = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int32)
    labels = np.array([[-100, 3, -100, -100], [-100] * 4], np.int32)
    first, second = rows_of([{"input_ids": ids, "labels": labels}])
    assert first.ids.tolist() == [1, 2]
    assert first.labels.tolist() == [-100, 3]
    assert len(second.ids) == 0


def test_a_turn_is_a_run_of_trained_tokens_and_its_prompt_all_that_stands_before() -> None:
    ids = np.array([1, 2, 3, 4, 5, 6, 7], np.int32)
    row = TokenRow(ids, np.array([-100, 3, 4, -100, -100, 7, 8], np.int32))
    found = [
        [(each.number, each.prompt.tolist(), each.answer.tolist()) for each in turns_of(row, which)]
        for which in ("all", "first", "last")
    ]
    first, second = (1, [1, 2], [3, 4]), (2, [1, 2, 3, 4, 5, 6], [7, 8])
    assert found == [[first, second], [first], [second]]
    assert turns_of(TokenRow(ids, np.full(7, -100, np.int32))) == []
    empty = np.empty(0, np.int32)
    assert turns_of(TokenRow(empty, empty)) == []
