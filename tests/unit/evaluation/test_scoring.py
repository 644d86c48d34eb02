"""The three ways to score rows give one result, and it is that of logits computed token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mindformers.evaluation import native_scorer
from mindformers.evaluation.native_scorer import NativeScorer
from mindformers.evaluation.network_scorer import NetworkScorer
from mindformers.evaluation.rows import TokenRow
from mindformers.evaluation.scoring import open_scorer, score_rows
from mindformers.ops.native.library import choose_backend, is_native
from mindformers.pet.lora import get_pet_model
from tests.support.golden_model import TRAIN_CASE
from tests.support.networks import golden_network, ints


def some_rows(vocab: int, count: int = 9) -> list[TokenRow]:
    """Return rows of many lengths; labels are given here and there, in one nowhere."""
    generator = np.random.default_rng(4)
    rows = []
    for number in range(count):
        ids = generator.integers(0, vocab, 3 + 4 * number).astype(np.int32)
        labels = np.append(ids[1:], np.int32(1))
        labels[generator.random(len(ids)) < 0.4] = -100
        rows.append(TokenRow(ids, labels))
    rows[2] = TokenRow(rows[2].ids, np.full_like(rows[2].ids, -100))
    rows.append(TokenRow(np.empty(0, np.int32), np.empty(0, np.int32)))
    return rows


@pytest.fixture(scope="module")
def network() -> Any:
    return golden_network(TRAIN_CASE)


def expected(network: Any, row: TokenRow) -> tuple[float, int, int]:
    """Return loss, tokens and correct ones by a forward pass over the row alone, in NumPy."""
    if not len(row.ids):
        return 0.0, 0, 0
    logits = network(ints(row.ids[None]))[0].asnumpy()[0].astype(np.float64)
    places = np.flatnonzero(row.labels >= 0)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = -np.log(shares[places, row.labels[places]]).sum()
    return float(loss), len(places), int((logits.argmax(1)[places] == row.labels[places]).sum())


def native(network: Any) -> NativeScorer:
    if not is_native():
        pytest.skip("there are no native kernels here")
    config = network.config
    return NativeScorer(
        network.native_network, block_size=config.block_size, vocab_size=config.vocab_size
    )


@pytest.mark.parametrize("limits", [(1024, 2**26), (7, 2**26), (5, 0)])
def test_native_scores_are_those_of_each_row_alone(
    network: Any, limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However rows are cut into calls: by tokens, or by labels."""
    monkeypatch.setattr(native_scorer, "CALL_TOKENS", limits[0])
    monkeypatch.setattr(native_scorer, "LOGITS_BYTES", limits[1])
    rows = some_rows(network.config.vocab_size)
    scorer = native(network)
    if not limits[1]:
        scorer.most_labels = 2
    compare(network, rows, scorer(rows))


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_a_networks_scores_are_those_of_each_row_alone(network: Any, batch_size: int) -> None:
    rows = some_rows(network.config.vocab_size)
    scorer = NetworkScorer(network, batch_size=batch_size)
    scorer.most_labels = 3
    network.set_train(True)
    compare(network, rows, scorer(rows))
    assert network.training
    network.set_train(False)


def test_a_network_compiled_as_a_graph_gives_the_same(mode: int) -> None:
    choose_backend("portable")
    network = golden_network(TRAIN_CASE)
    rows = some_rows(network.config.vocab_size)
    compare(network, rows, NetworkScorer(network, batch_size=4)(rows))


def compare(network: Any, rows: list[TokenRow], scores: list[Any]) -> None:
    assert len(scores) == len(rows)
    for row, score in zip(rows, scores, strict=True):
        loss, tokens, correct = expected(network, row)
        assert score.loss == pytest.approx(loss, rel=1e-4, abs=1e-6)
        assert (score.tokens, score.correct) == (tokens, correct)


def test_a_network_with_adapters_is_scored_without_copies_of_its_weights(network: Any) -> None:
    if is_native():
        assert isinstance(open_scorer(network), NativeScorer)
    adapted = golden_network(TRAIN_CASE)
    get_pet_model(adapted, {"lora_rank": 2, "target_modules": ["query_key_value"]})
    assert isinstance(open_scorer(adapted), NetworkScorer)


def test_all_rows_are_counted_once_and_reported(network: Any) -> None:
    rows = some_rows(network.config.vocab_size, 70)
    done: list[int] = []
    found = score_rows(open_scorer(network), iter(rows), done.append)
    assert done == [64, 7]
    assert found.tokens == sum(int((row.labels >= 0).sum()) for row in rows)


def test_scoring_leaves_a_running_generation_cache_usable(network: Any) -> None:
    prompt = [[3, 5, 7]]
    before = network.generate(prompt, max_new_tokens=4)[0]
    score_rows(open_scorer(network), some_rows(network.config.vocab_size))
    assert network.generate(prompt, max_new_tokens=4)[0].tolist() == before.tolist()
