from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.saving import (
    check_output,
    parse_size,
    staged_folder,
    write_shards,
    write_weights,
)
from mindformers.checkpoint.tensor_io import array_to_write
from mindformers.errors import CheckpointError, ConfigError

TENSORS = [array_to_write(f"t{i}", np.full(10, i, np.float32)) for i in range(5)]  # 40 bytes each


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("800 MiB", 800 * 2**20), ("1.5kb", 1500), (7, 7), ("7", 7)],
)
def test_sizes_are_read_with_their_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "5 parsecs", "-1GB", "GB", "0.1"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match="as in 5GB"):
        parse_size(text)


def test_shards_are_filled_up_to_the_limit_and_indexed(tmp_path):
    write_shards(tmp_path, TENSORS, 80)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 200
    assert index["weight_map"] == {
        "t0": "model-00001-of-00003.safetensors",
        "t1": "model-00001-of-00003.safetensors",
        "t2": "model-00002-of-00003.safetensors",
        "t3": "model-00002-of-00003.safetensors",
        "t4": "model-00003-of-00003.safetensors",
    }
    with open_weights(tmp_path) as source:
        assert [source.read(f"t{i}")[0] for i in range(5)] == [0, 1, 2, 3, 4]


def test_a_tensor_larger_than_the_limit_has_its_own_shard(tmp_path):
    write_shards(tmp_path, TENSORS[:2], 10)
    assert "model-00002-of-00002.safetensors" in names(tmp_path)


def test_saving_again_removes_the_shards_of_the_earlier_save_only(tmp_path):
    write_shards(tmp_path, TENSORS, 80)
    (tmp_path / "model-mine.safetensors").write_text("x")
    write_shards(tmp_path, TENSORS)
    assert names(tmp_path) == ["model-mine.safetensors", "model.safetensors"]


def test_a_pickle_suffix_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="pickle files are not written"):
        write_weights(tmp_path / "a.bin", TENSORS)


def test_an_output_that_exists_needs_force_and_must_hold_weights_only(tmp_path):
    output = tmp_path / "out"
    check_output(output, False, lambda _: True)
    output.mkdir()
    check_output(output, False, lambda _: True)  # empty
    (output / "a").write_text("x")
    with pytest.raises(CheckpointError, match="exists already; choose another .* --force"):
        check_output(output, False, lambda _: True)
    check_output(output, True, lambda _: True)
    with pytest.raises(CheckpointError, match="holds files that are no weights: a;"):
        check_output(output, True, lambda _: False)


def test_a_staged_folder_appears_whole_or_not_at_all(tmp_path):
    with staged_folder(tmp_path / "out") as temp:
        (temp / "new").write_text("x")
        assert not (tmp_path / "out").exists()
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "out") as temp:
        (temp / "half").write_text("x")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["new"]


def test_a_staged_folder_that_cannot_take_its_place_gives_the_old_one_back(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("x")
    rename = Path.rename

    def fail(self, target):
        if Path(target) == out.resolve() and (self / "new").exists():
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(CheckpointError, match="Permission denied"), staged_folder(out) as temp:
        (temp / "new").write_text("x")
    assert names(out) == ["old"]
    assert names(tmp_path) == ["out"]
