"""Blocks are found by what they hold and by what stands before them, and given up in the order of their last use."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mindformers.generation.block_manager import BlockManager


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def test_full_blocks_of_a_row_serve_the_next_one_with_the_same_beginning():
    blocks = BlockManager(num_blocks=8, block_size=2)
    assert blocks.open(0, ids(1, 2, 3, 4, 5)) == 0
    blocks.note(0, ids(1, 2, 3, 4, 5), 5)
    assert blocks.open(1, ids(1, 2, 3, 4, 5, 6)) == 4
    assert blocks.table(1).tolist()[:2] == blocks.table(0).tolist()[:2]
    assert blocks.num_free == 7 - 3 - 1
    # The same two tokens elsewhere are something else.
    assert blocks.open(2, ids(3, 4, 9)) == 0
    blocks.free_all()
    assert (blocks.num_free, blocks.num_cached) == (7, 2)


def test_a_token_is_left_to_read_also_where_all_are_known():
    blocks = BlockManager(num_blocks=8, block_size=2)
    blocks.open(0, ids(1, 2, 3, 4))
    blocks.note(0, ids(1, 2, 3, 4), 4)
    assert blocks.open(1, ids(1, 2, 3, 4)) == 2
    assert blocks.table(1)[1] != blocks.table(0)[1]


def test_nothing_is_known_before_it_is_written():
    blocks = BlockManager(num_blocks=8, block_size=2)
    blocks.open(0, ids(1, 2, 3, 4, 5))
    blocks.note(0, ids(1, 2, 3, 4, 5), 3)
    assert blocks.open(1, ids(1, 2, 3, 4, 5)) == 2


def test_what_was_not_used_for_the_longest_time_is_given_up_first_and_ends_before_beginnings():
    blocks = BlockManager(num_blocks=5, block_size=1)
    for row, first in enumerate((1, 2)):
        blocks.open(row, ids(first, 3))
        blocks.note(row, ids(first, 3), 2)
    blocks.free([0])
    blocks.free([1])
    assert blocks.num_cached == 4
    assert blocks.open(2, ids(1, 9)) == 1  # keeps the first one's beginning, takes its end
    blocks.free([2])
    assert blocks.open(3, ids(2, 3, 9)) == 2  # untouched
    assert blocks.num_free == 1


def test_a_block_that_was_given_up_is_not_found_again():
    blocks = BlockManager(num_blocks=3, block_size=2)
    blocks.open(0, ids(1, 2, 3))
    blocks.note(0, ids(1, 2, 3), 3)
    blocks.free([0])
    assert blocks.open(1, ids(7, 8, 9)) == 0
    blocks.free([1])
    assert blocks.open(2, ids(1, 2, 3)) == 0


def test_a_row_that_does_not_fit_changes_nothing():
    blocks = BlockManager(num_blocks=4, block_size=2)
    blocks.open(0, ids(1, 2, 3))
    blocks.note(0, ids(1, 2, 3), 3)
    assert blocks.open(1, ids(1, 2, 3, 4, 5, 6)) is None
    assert blocks.open(1, ids(1, 2, 3), reserve=1) is None
    assert (blocks.rows, blocks.num_free) == ([0], 1)
    blocks.free([0])
    # Two of the three free blocks hold what is wanted: they cannot be given up for the rest of it.
    assert blocks.open(1, ids(1, 2, 3, 4, 5, 6)) == 2
    assert blocks.num_free == 0


def test_copies_share_blocks_until_one_of_them_writes():
    blocks = BlockManager(num_blocks=8, block_size=2)
    blocks.open(0, ids(1, 2, 3))
    blocks.fork(0, 1)
    blocks.fork(0, 2)
    assert blocks.num_free == 5
    assert blocks.needs_block(1)
    blocks.append([1])
    old, new = blocks.table(0).tolist(), blocks.table(1).tolist()
    assert (new[0], new[1] != old[1]) == (old[0], True)
    blocks.append([2])
    assert not blocks.needs_block(0)  # it is the last one to hold the block
    blocks.append([0])
    assert blocks.table(0).tolist() == old
    assert blocks.take_copies() == {new[1]: old[1], blocks.table(2)[1]: old[1]}
    assert blocks.take_copies() == {}
    blocks.free_all()
    assert blocks.num_free == 7


ACTIONS = st.tuples(
    st.sampled_from("oofawfr"), st.integers(0, 4), st.integers(0, 4), st.integers(1, 9)
)


@given(st.integers(3, 14), st.integers(1, 3), st.lists(ACTIONS, max_size=60))
def test_what_a_row_reads_is_what_it_wrote_whatever_is_shared(num_blocks, block_size, actions):
    blocks = BlockManager(num_blocks, block_size)
    held = np.full(num_blocks * block_size, -1)
    rows: dict[int, list[int]] = {}

    def write(row, first):
        for target, source in blocks.take_copies().items():
            size = block_size
            held[target * size : (target + 1) * size] = held[source * size : (source + 1) * size]
        places = np.arange(first, len(rows[row]))
        held[blocks.slot_mapping([row], places)[0]] = rows[row][first:]
        blocks.note(row, np.array(rows[row], np.int32), len(rows[row]))

    for action, row, other, length in actions:
        if action == "o" and row not in rows:
            tokens = [other] * (length - length // 3) + [7] * (length // 3)
            found = blocks.open(row, np.array(tokens, np.int32))
            if found is not None:
                assert found < len(tokens)
                rows[row] = tokens
                write(row, found)
        elif action == "f" and row in rows and other not in rows:
            blocks.fork(row, other)
            rows[other] = list(rows[row])
        elif action == "a" and row in rows and (blocks.num_free or not blocks.needs_block(row)):
            blocks.append([row])
            rows[row].append(length)
            write(row, len(rows[row]) - 1)
        elif action == "r" and row in rows:
            blocks.free([row])
            del rows[row]
        for each, tokens in rows.items():
            slots = blocks.slot_mapping([each], np.arange(len(tokens)))[0]
            assert held[slots].tolist() == tokens
            assert (slots >= block_size).all()
        owned = {block for each in rows for block in blocks.table(each).tolist()}
        assert blocks.num_free == num_blocks - 1 - len(owned)
    blocks.free_all()
    assert blocks.num_free == num_blocks - 1
