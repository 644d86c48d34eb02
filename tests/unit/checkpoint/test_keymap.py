from __future__ import annotations

import numpy as np

from mindformers.checkpoint.keymap import (
    Piece,
    Rows,
    Stored,
    assemble,
    compare_shapes,
    locate_pieces,
    plan_tensor,
)

Q, K, V = Piece("q", (4, 3)), Piece("k", (2, 3)), Piece("v", (2, 3))
FUSED = [Stored("qkv", (Q, K, V))]
SPLIT = [Stored("wq", (Q,)), Stored("wk", (K,)), Stored("wv", (V,))]


def test_a_fused_tensor_takes_the_rows_of_its_parts():
    assert plan_tensor(FUSED[0], locate_pieces(SPLIT)) == [
        Rows("wq", 0, 4),
        Rows("wk", 0, 2),
        Rows("wv", 0, 2),
    ]


def test_a_part_takes_its_rows_of_the_fused_tensor():
    places = locate_pieces(FUSED)
    assert [plan_tensor(stored, places) for stored in SPLIT] == [
        [Rows("qkv", 0, 4)],
        [Rows("qkv", 4, 6)],
        [Rows("qkv", 6, 8)],
    ]


def test_neighbouring_rows_are_read_at_once():
    assert plan_tensor(FUSED[0], locate_pieces(FUSED)) == [Rows("qkv", 0, 8)]


def test_assembling_gives_the_parts_one_below_the_other():
    store = {"wq": np.ones((4, 3)), "wk": np.full((2, 3), 2.0), "wv": np.full((2, 3), 3.0)}
    plan = plan_tensor(FUSED[0], locate_pieces(SPLIT))
    blocks = assemble(plan, lambda name, start, stop: [store[name][start:stop]])
    assert np.concatenate(list(blocks))[:, 0].tolist() == [1, 1, 1, 1, 2, 2, 3, 3]


def test_differences_list_missing_unexpected_and_misshaped_with_near_names():
    found = {"wq": (4, 3), "wkk": (2, 3), "wv": (5, 3)}
    differences = compare_shapes(SPLIT, found)
    assert differences.summary() == "1 missing, 1 unexpected, 1 of another shape"
    assert differences.table().splitlines() == [
        "  name  expected  found",
        "  wk    present   missing (did you mean 'wkk'?)",
        "  wv    [2, 3]    [5, 3]",
        "  wkk   absent    present",
    ]


def test_a_long_table_is_cut_and_says_so():
    found = {f"x{i}": (1,) for i in range(50)}
    text = compare_shapes([], found).table()
    assert len(text.splitlines()) == 14
    assert text.endswith("... and 38 more")


def test_equal_shapes_have_no_differences_and_optional_ones_may_lack():
    shapes = {stored.name: stored.shape for stored in SPLIT}
    assert not compare_shapes(SPLIT, shapes)
    del shapes["wv"]
    assert not compare_shapes(SPLIT, shapes, optional=["wv"])
