"""Pieces as a kernel takes them, worked out by hand."""

from __future__ import annotations

import numpy as np

from mindformers.generation.logprobs import token_logprob
from mindformers.generation.paged_step import Piece, by_piece, flatten, prefix_slots


def blocks(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def test_pieces_lie_side_by_side_with_their_own_positions_and_slots():
    flat = flatten(
        [
            Piece([7, 8, 9], 0, blocks(3)),
            Piece([5], 6, blocks(1, 5), (0,)),
            Piece([1, 2], 3, blocks(2, 4), (0, 1)),
        ],
        block_size=4,
        prefix_length=0,
    )
    assert flat.ids.tolist() == [7, 8, 9, 5, 1, 2]
    assert flat.positions.tolist() == [0, 1, 2, 6, 3, 4]
    assert flat.slots.tolist() == [12, 13, 14, 22, 11, 16]
    assert flat.starts.tolist() == [0, 3, 4, 6]
    assert flat.lengths.tolist() == [3, 7, 5]
    assert flat.tables.tolist() == [[3, 0], [1, 5], [2, 4]]
    assert (flat.picked.tolist(), flat.kept.tolist()) == ([3, 4, 5], [])
    assert {array.dtype for array in vars(flat).values()} == {np.dtype(np.int32)}


def test_pieces_give_hidden_states_or_logits_each_its_own():
    pieces = [
        Piece([7, 8, 9], 0, blocks(3), (0, 2), gives_hidden=True),
        Piece([5], 6, blocks(1, 5), (0,)),
        Piece([1, 2], 3, blocks(2, 4), gives_hidden=True),
        Piece([4, 6], 0, blocks(6), (1,), gives_hidden=True),
        Piece([3, 3], 0, blocks(7), (0, 1)),
    ]
    flat = flatten(pieces, block_size=4, prefix_length=0)
    assert (flat.picked.tolist(), flat.kept.tolist()) == ([3, 8, 9], [0, 2, 7])
    found = by_piece(pieces, np.arange(3)[:, None], np.arange(10, 13)[:, None])
    assert [rows.ravel().tolist() for rows in found] == [[10, 11], [0], [], [12], [1, 2]]


def test_a_trained_prefix_stands_before_position_0():
    flat = flatten([Piece([7, 8], 0, blocks(3, 5))], block_size=4, prefix_length=3)
    assert (flat.positions.tolist(), flat.slots.tolist()) == ([0, 1], [15, 20])
    assert flat.lengths.tolist() == [5]
    assert prefix_slots(np.array([[3, 5], [2, 1]]), 4, 3).tolist() == [[12, 13, 14], [8, 9, 10]]


def test_log_probabilities_of_the_likeliest_tokens_the_lower_id_of_equals_first():
    logits = np.log(np.array([0.2, 0.3, 0.2, 0.3], np.float32)) + np.float32(80)
    told = token_logprob(logits, 2, 3)
    assert [token for token, _ in told.top] == [1, 3, 0]
    np.testing.assert_allclose(np.exp([p for _, p in told.top]), [0.3, 0.3, 0.2], rtol=1e-4)
    np.testing.assert_allclose(np.exp(told.logprob), 0.2, rtol=1e-4)
    assert token_logprob(logits, 1, 0).top == ()
    assert len(token_logprob(logits, 1, 9).top) == 4
