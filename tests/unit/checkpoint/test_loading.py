from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from mindformers.checkpoint.ckpt_io import write_ckpt
from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.manifest import write_step_folder
from mindformers.checkpoint.tensor_io import array_to_write
from mindformers.errors import CheckpointError
from tests.support.glm_files import glm_arrays, tiny_config, write_file, write_hf_directory

CONFIG = tiny_config()
ARRAYS = glm_arrays(CONFIG)
ONE = {"w": np.arange(6, dtype=np.float32).reshape(3, 2)}


class Canary:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_shards_are_one_mapping(tmp_path):
    folder = write_hf_directory(tmp_path / "hf", CONFIG, ARRAYS, shards=3)
    with open_weights(folder) as source:
        assert source.shapes == {name: array.shape for name, array in ARRAYS.items()}
        for name, array in ARRAYS.items():
            assert (source.read(name) == array).all()
        assert source.config()["model_type"] == "glm"


def test_a_missing_shard_is_named(tmp_path):
    folder = write_hf_directory(tmp_path / "hf", CONFIG, ARRAYS, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"1 of 3 shards are missing: model-00002-of-00003\.safetensors"
    ):
        open_weights(folder)


def test_index_and_shards_that_disagree_are_listed_with_near_names(tmp_path):
    folder = write_hf_directory(tmp_path / "hf", CONFIG, ARRAYS, shards=3)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.wait"] = index["weight_map"].pop("model.norm.weight")
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as caught:
        open_weights(folder)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("the index and the shards disagree on 2 tensors")
    assert "model.norm.wait: listed in" in lines[1]
    assert "did you mean 'model.norm.weight'" in lines[1]
    assert "model.norm.weight: in" in lines[2]
    assert lines[2].endswith("not listed")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("[]", "holds a list; allowed: one JSON object"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"a": "../x.safetensors"}}', r"names a file elsewhere: '\.\./x"),
    ],
)
def test_a_broken_index_is_a_clear_error(tmp_path, content, message):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        open_weights(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "a.ckpt"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_a_pickle_is_refused_and_never_run(tmp_path, name, as_folder):
    canary = tmp_path / "canary"
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(CheckpointError, match="pickle.*save the weights as safetensors"):
        open_weights(folder if as_folder else folder / name)
    assert not canary.exists()
    pickle.loads((folder / name).read_bytes())
    assert canary.exists()  # the canary is one


def test_a_folder_with_one_weight_file_of_any_name_is_enough(tmp_path):
    write_ckpt(tmp_path / "glm4.ckpt", [array_to_write("w", ONE["w"])])
    (tmp_path / "notes.txt").write_text("x")
    with open_weights(tmp_path) as source:
        assert (source.read("w") == ONE["w"]).all()


def test_several_files_without_an_index_are_refused(tmp_path):
    for name in ("a", "b"):
        write_file(tmp_path / f"{name}.safetensors", ONE)
    with pytest.raises(CheckpointError, match="2 weight files and no index: a.safetensors, b"):
        open_weights(tmp_path)


def test_an_empty_folder_an_absent_path_and_another_suffix_are_clear_errors(tmp_path):
    with pytest.raises(CheckpointError, match="holds no weights"):
        open_weights(tmp_path)
    (tmp_path / "glm-4-9b").mkdir()
    with pytest.raises(CheckpointError, match="does not exist; did you mean 'glm-4-9b'"):
        open_weights(tmp_path / "glm-4-9")
    (tmp_path / "a.gguf").write_text("x")
    with pytest.raises(CheckpointError, match=r"unknown kind of file '\.gguf'"):
        open_weights(tmp_path / "a.gguf")


def make_step(root: Path, step: int, value: float) -> Path:
    arrays = {"w": np.full((3, 2), value, np.float32)}
    writers = {
        "model.safetensors": lambda p: write_file(p, arrays),
        "optimizer.safetensors": lambda p: write_file(p, ONE),
    }
    return write_step_folder(root, f"step_{step}", writers, {"step": step})


def test_a_step_folder_is_opened_without_its_optimizer(tmp_path):
    with open_weights(make_step(tmp_path, 1, 1.0)) as source:
        assert list(source.tensors) == ["w"]


def test_a_folder_of_steps_gives_the_highest_valid_one(tmp_path):
    make_step(tmp_path, 1, 1.0)
    newest = make_step(tmp_path, 2, 2.0)
    with open_weights(tmp_path) as source:
        assert source.read("w")[0, 0] == 2.0
    data = bytearray((newest / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "model.safetensors").write_bytes(data)
    with open_weights(tmp_path) as source:
        assert source.read("w")[0, 0] == 1.0


def test_one_flipped_bit_is_found_unless_verify_is_off(tmp_path):
    folder = make_step(tmp_path, 1, 1.0)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: sha256 mismatch"):
        open_weights(folder)
    open_weights(folder, verify=False).close()


def test_the_weights_a_training_run_names_are_found_and_verified(tmp_path):
    weights = "rank_0/CKP_rank_0-1_5.safetensors"
    writers = {
        weights: lambda p: write_file(p, ONE),
        "rank_0/optimizer.safetensors": lambda p: write_file(p, ARRAYS),
        "config.yaml": lambda p: p.write_text("model:\n  model_config:\n    type: X\n    a: 1\n"),
    }
    folder = write_step_folder(
        tmp_path / "ckpt", "step_5", writers, {"step": 5, "weights": weights}
    )
    for path in (folder, tmp_path / "ckpt"):
        with open_weights(path) as source:
            assert list(source.tensors) == ["w"]
            assert source.config() == {"type": "X", "a": 1}
            assert source.config_where() == str(folder / "config.yaml")
    data = bytearray((folder / weights).read_bytes())
    data[-1] ^= 1
    (folder / weights).write_bytes(data)
    with pytest.raises(CheckpointError, match="CKP_rank_0-1_5.safetensors: sha256 mismatch"):
        open_weights(folder)


def test_a_single_rank_folder_is_opened_and_several_are_refused(tmp_path):
    write_file(tmp_path / "rank_0" / "a.safetensors", ONE)
    with open_weights(tmp_path) as source:
        assert (source.read("w") == ONE["w"]).all()
    write_file(tmp_path / "rank_1" / "a.safetensors", ONE)
    with pytest.raises(CheckpointError, match="2 rank folders hold slices of a parallel run"):
        open_weights(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    for name in ("a", "b"):
        write_file(tmp_path / f"{name}.safetensors", ONE)
    index = {"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="disagree"):
        open_weights(tmp_path)
