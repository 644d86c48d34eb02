"""Parts of tensors joined to whole ones, against slices of NumPy arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindformers.checkpoint.loading import open_joined
from mindformers.checkpoint.parts import (
    STRATEGY_FILE,
    Part,
    Parted,
    read_strategy,
    write_strategy,
)
from mindformers.checkpoint.tensor_io import array_to_write, write_safetensors
from mindformers.errors import CheckpointError

WHOLE = np.arange(48, dtype=np.float32).reshape(8, 6)


def write_rank(folder: Path, rank: int, tensors: dict[str, tuple[np.ndarray, Parted]]) -> str:
    place = folder / f"rank_{rank}"
    place.mkdir()
    write_safetensors(
        place / "w.safetensors", [array_to_write(n, a) for n, (a, _) in tensors.items()]
    )
    write_strategy(place / STRATEGY_FILE, {name: parted for name, (_, parted) in tensors.items()})
    return f"rank_{rank}/w.safetensors"


def two_ranks(folder: Path) -> list[str]:
    """Write rows interleaved as fused weights are, and columns halved."""
    names = []
    for rank in range(2):
        rows = Parted((8, 6), (Part(0, 2 * rank, 2), Part(2, 4 + 2 * rank, 2)))
        own = np.concatenate([WHOLE[2 * rank : 2 * rank + 2], WHOLE[4 + 2 * rank : 6 + 2 * rank]])
        columns = Parted((8, 6), (Part(0, 0, 8, (3 * rank, 3 * rank + 3)),))
        half = np.ascontiguousarray(WHOLE[:, 3 * rank : 3 * rank + 3])
        names.append(write_rank(folder, rank, {"rows": (own, rows), "columns": (half, columns)}))
    return names


def test_parts_make_the_whole(tmp_path):
    with open_joined(tmp_path, two_ranks(tmp_path)) as file:
        for name in ("rows", "columns"):
            np.testing.assert_array_equal(file.read(name), WHOLE)
            np.testing.assert_array_equal(file.read(name, 3, 7), WHOLE[3:7])


def test_another_cut_is_read_from_them(tmp_path):
    wanted = Parted((8, 6), (Part(0, 1, 2, (1, 5)), Part(2, 6, 2, (1, 5))))
    with open_joined(tmp_path, two_ranks(tmp_path)) as file:
        out = np.zeros((4, 4), np.float32)
        for place, block in file.read_parts("rows", wanted):
            out[place] = block
    np.testing.assert_array_equal(out, WHOLE[[1, 2, 6, 7], 1:5])


def test_columns_that_do_not_lie_side_by_side_make_the_whole(tmp_path):
    """As heads of several layers in one row: each rank has every other pair of columns."""
    names = []
    for rank in range(2):
        pairs = [(2 * rank, 2 * rank + 1), (4 + rank, 5 + rank), (1 + 2 * rank, 2 + 2 * rank)]
        parts = tuple(Part(0, 0, 8, pair, place) for place, pair in enumerate(pairs))
        parted = Parted((8, 6), parts)
        own = WHOLE[:, [first for first, _ in pairs]]
        np.testing.assert_array_equal(parted.cut(WHOLE), own)
        assert parted.own_shape == own.shape
        names.append(write_rank(tmp_path, rank, {"w": (parted.cut(WHOLE), parted)}))
        assert read_strategy(tmp_path / f"rank_{rank}" / STRATEGY_FILE) == {"w": parted}
    wanted = parted.rows(2, 7)
    out = np.zeros(wanted.own_shape, np.float32)
    with open_joined(tmp_path, names) as file:
        np.testing.assert_array_equal(file.read("w"), WHOLE)
        for place, block in file.read_parts("w", wanted):
            out[place] = block
    np.testing.assert_array_equal(out, own[2:7])


def test_a_missing_rank_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="24 of 48 elements are there"):
        open_joined(tmp_path, two_ranks(tmp_path)[:1])


def test_a_strategy_survives_its_file_and_damage_is_refused(tmp_path):
    parted = {"a": Parted((8, 6), (Part(0, 2, 3, (1, 4)),)), "b": Parted.whole((5,))}
    write_strategy(tmp_path / STRATEGY_FILE, parted)
    assert read_strategy(tmp_path / STRATEGY_FILE) == parted
    (tmp_path / STRATEGY_FILE).write_text('{"tensors": {"a": {"shape": "x"}}}')
    with pytest.raises(CheckpointError, match="damaged"):
        read_strategy(tmp_path / STRATEGY_FILE)


def test_rows_of_a_part_are_counted_from_their_first():
    parted = Parted((8, 6), (Part(0, 2, 2), Part(2, 6, 2)))
    assert parted.rows(1, 3) == Parted((8, 6), (Part(0, 3, 1), Part(1, 6, 1)))
