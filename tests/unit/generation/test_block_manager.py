"""No block has two owners, none is lost, and every number a kernel gets is valid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers.errors import GenerationError
from mindformers.generation.block_manager import BlockManager


def test_tables_and_slots_of_a_small_case():
    blocks = BlockManager(num_blocks=8, block_size=4)
    blocks.allocate([0, 1], [5, 2])
    np.testing.assert_array_equal(blocks.block_tables([0, 1]), [[1, 2], [3, 0]])
    slots = blocks.slot_mapping([0, 1], np.arange(6))
    np.testing.assert_array_equal(slots, [[4, 5, 6, 7, 8, 0], [12, 13, 0, 0, 0, 0]])
    blocks.append([1])
    blocks.append([1, 0])
    blocks.append([1])
    np.testing.assert_array_equal(blocks.last_slots([1, 0]), [16, 9])
    np.testing.assert_array_equal(blocks.lengths([0, 1]), [6, 5])
    np.testing.assert_array_equal(blocks.block_tables([1, 0]), [[3, 4], [1, 2]])
    for array in (blocks.block_tables([0]), slots, blocks.last_slots([0]), blocks.lengths([0])):
        assert array.dtype == np.int32


def test_slots_take_positions_of_each_row_so_that_left_padding_works_too():
    blocks = BlockManager(num_blocks=8, block_size=4)
    blocks.allocate([0, 1], [3, 5])
    positions = np.array([[-2, -1, 0, 1, 2], [0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(
        blocks.slot_mapping([0, 1], positions), [[0, 0, 4, 5, 6], [8, 9, 10, 11, 12]]
    )


def test_a_cache_that_is_full_says_so_with_numbers_and_changes_nothing():
    blocks = BlockManager(num_blocks=4, block_size=2)
    blocks.allocate([0], [4])
    with pytest.raises(
        GenerationError, match="2 more blocks of 2 tokens are needed, 1 of 3 are free"
    ):
        blocks.allocate([1, 2], [1, 1])
    assert (blocks.rows, blocks.num_free) == ([0], 1)
    blocks.allocate([1], [2])
    with pytest.raises(GenerationError, match=r"1 more blocks .* 0 of 3 are free"):
        blocks.append([0, 1][:1])
    np.testing.assert_array_equal(blocks.lengths([0]), [4])
    blocks.free([1])
    blocks.append([0])
    assert blocks.num_free == 0


@pytest.mark.parametrize(
    ("num_blocks", "block_size", "name"), [(1, 4, "num_blocks"), (4, 0, "block_size")]
)
def test_sizes_that_hold_nothing_are_refused(num_blocks, block_size, name):
    with pytest.raises(GenerationError, match=f"^{name}: found"):
        BlockManager(num_blocks, block_size)


def test_several_tokens_come_and_go_with_their_blocks():
    blocks = BlockManager(num_blocks=8, block_size=4)
    blocks.allocate([0, 1], [3, 4])
    assert (blocks.spare(1), blocks.spare(2), blocks.spare(6)) == (20, 8, 0)
    blocks.append([0, 1], [6, 1])
    np.testing.assert_array_equal(blocks.block_tables([0, 1]), [[1, 3, 4], [2, 5, 0]])
    np.testing.assert_array_equal(blocks.lengths([0, 1]), [9, 5])
    blocks.truncate([0, 1], [4, 5])
    np.testing.assert_array_equal(blocks.block_tables([0, 1]), [[1, 0], [2, 5]])
    np.testing.assert_array_equal(blocks.last_slots([0, 1]), [7, 20])
    assert blocks.num_free == 4
    with pytest.raises(GenerationError, match="5 more blocks"):
        blocks.append([0], [17])
    np.testing.assert_array_equal(blocks.lengths([0, 1]), [4, 5])
    blocks.append([0], [5])
    np.testing.assert_array_equal(blocks.block_tables([0]), [[1, 3, 4]])


@given(
    st.integers(2, 12),
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from("antf"), st.integers(0, 5), st.integers(1, 9)), max_size=40),
)
def test_no_block_has_two_owners_and_all_come_back(num_blocks, block_size, actions):
    blocks, lengths = BlockManager(num_blocks, block_size), {}
    for action, row, length in actions:
        try:
            if action == "n" and row not in lengths:
                blocks.allocate([row], [length])
                lengths[row] = length
            elif action == "a" and row in lengths:
                blocks.append([row], None if length == 1 else [length])
                lengths[row] += length
            elif action == "t" and row in lengths:
                lengths[row] = min(lengths[row], length)
                blocks.truncate([row], [lengths[row]])
            elif action == "f" and row in lengths:
                blocks.free([row])
                del lengths[row]
        except GenerationError:
            pass
        owned = [n for r in lengths for n in blocks.block_tables([r])[0]]
        assert 0 not in owned
        assert len(owned) == len(set(owned)) == num_blocks - 1 - blocks.num_free
        slots = [s for r in lengths for s in blocks.slot_mapping([r], np.arange(lengths[r]))[0]]
        assert len(slots) == len(set(slots)) == sum(lengths.values())
        assert all(block_size <= slot < num_blocks * block_size for slot in slots)
    blocks.free_all()
    assert blocks.num_free == num_blocks - 1
