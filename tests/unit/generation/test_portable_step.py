"""How pieces are padded for a MindSpore network, and what an NPU's attention is told of them."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers.errors import GenerationError
from mindformers.generation import portable_step
from mindformers.generation.paged_step import Piece
from mindformers.generation.portable_step import PortableStep

VOCAB = 50


class Config:
    vocab_size, hidden_size, seq_length, block_size, num_heads = VOCAB, 3, 32, 4, 2


class Network:
    """Gives each token's own id as its likeliest next one, and remembers how it was called."""

    config, prefix_length, cache_serial = Config(), 0, 0

    def __init__(self):
        self.calls = []

    def allocate_cache(self, num_blocks):
        self.cache_serial += 1

    def add_flags_custom(self, is_first_iteration):
        self.calls.append(is_first_iteration)

    def __call__(self, ids, positions, slots, tables, lengths, picked):
        arrays = [each.asnumpy() for each in (ids, positions, slots, tables, lengths)]
        self.calls.append([each.tolist() for each in arrays])
        rows = np.eye(VOCAB, dtype=np.float32)[ids.asnumpy().reshape(-1)[picked.asnumpy()]]
        return type("Tensor", (), {"asnumpy": lambda self: rows})()

    def states(self, ids, positions, *rest):
        """Give each picked token's id, its position and a number that says what was asked for."""
        self(ids, positions, *rest)
        picked = rest[-1].asnumpy()
        places = [each.asnumpy().reshape(-1)[picked] for each in (ids, positions)]
        rows = np.stack([*places, np.full(len(picked), -1)], 1).astype(np.float32)
        return type("Tensor", (), {"asnumpy": lambda self: rows})()


@pytest.fixture(params=["portable", "ascend"])
def step(request, monkeypatch):
    monkeypatch.setattr(portable_step, "active_backend", lambda: request.param)
    monkeypatch.setattr(portable_step, "CachedForward", lambda network: network)
    monkeypatch.setattr(portable_step, "CachedHidden", lambda network: network.states)
    opened = PortableStep(Network())
    opened.allocate(8)
    return opened


def blocks(*numbers):
    return np.array(numbers, np.int32)


PIECES = [
    Piece([7], 5, blocks(1, 2), (0,)),
    Piece([11, 12, 13], 0, blocks(3), (1, 2)),
    Piece([9], 0, blocks(4), (0,)),
    Piece([21, 22], 0, blocks(5)),
]


def likeliest(found):
    return [rows.argmax(-1).tolist() for rows in found]


def test_logits_come_in_the_order_of_the_pieces(step):
    assert likeliest(step.run(PIECES)) == [[7], [12, 13], [9], []]


def test_short_pieces_are_filled_up_where_nobody_reads(step):
    step.run(PIECES[1:2] + PIECES[3:])
    ids, positions, slots, tables, lengths = step.network.calls[-1]
    assert ids == [[11, 12, 13], [21, 22, 22]]
    assert positions == [[0, 1, 2], [0, 1, 1]]
    assert slots == [12, 13, 14, 20, 21, 0]
    assert (tables, lengths) == ([[3], [5]], [3, 2])


def test_an_npu_is_told_prompts_from_single_tokens_also_where_a_prompt_is_one_token(step):
    step.run(PIECES)
    if step.is_whole:
        flags = [call for call in step.network.calls if isinstance(call, bool)]
        calls = [call[0] for call in step.network.calls if not isinstance(call, bool)]
        assert flags == [True, False]
        assert calls == [[[11, 12, 13], [9, 9, 9], [21, 22, 22]], [[7]]]
    else:
        assert [call[0] for call in step.network.calls] == [
            [[11, 12, 13], [21, 22, 22]],
            [[7], [9]],
        ]


def test_no_pass_computes_more_scores_than_memory_is_meant_for(step, monkeypatch):
    monkeypatch.setattr(portable_step, "SCORES", 100)
    monkeypatch.setattr(portable_step, "SMALLEST_CHUNK", 2)
    long = Piece(list(range(1, 12)), 0, blocks(1, 2, 3), (4, 5, 10))
    single = [Piece([30 + n], 11, blocks(4, 5, 6), (0,)) for n in range(3)]
    found = step.run([single[0], long, single[1], single[2]])
    assert likeliest(found) == [[30], [5, 6, 11], [31], [32]]
    shapes = [np.shape(call[0]) for call in step.network.calls if not isinstance(call, bool)]
    if step.is_whole:
        assert shapes == [(1, 11), (3, 1)]
    else:  # 2 heads: 4 tokens on 11 cached ones make 88 scores, 3 x 1 on 12 make 72
        assert shapes == [(1, 4), (1, 4), (1, 3), (3, 1)]


def test_pieces_that_give_hidden_states_go_through_apart(step, monkeypatch):
    monkeypatch.setattr(portable_step, "SCORES", 30)
    monkeypatch.setattr(portable_step, "SMALLEST_CHUNK", 2)
    states = Piece([31, 32, 33, 34], 0, blocks(6), range(4), gives_hidden=True)
    last = Piece([41], 3, blocks(7), (0,), gives_hidden=True)
    found = step.run([states, *PIECES, last])
    assert found[0].tolist() == [[31, 0, -1], [32, 1, -1], [33, 2, -1], [34, 3, -1]]
    assert likeliest(found[1:5]) == [[7], [12, 13], [9], []]
    assert found[5].tolist() == [[41, 3, -1]]


def test_a_cache_that_another_call_took_is_not_read(step):
    step.network.allocate_cache(4)
    with pytest.raises(GenerationError, match="its cache took the place of the engine's"):
        step.run(PIECES)


def test_an_npu_cannot_read_a_trained_prefix_in_steps(monkeypatch):
    monkeypatch.setattr(portable_step, "active_backend", lambda: "ascend")
    network = Network()
    network.prefix_length = 3
    with pytest.raises(GenerationError, match="a trained prefix cannot be read in steps on an NPU"):
        PortableStep(network)
