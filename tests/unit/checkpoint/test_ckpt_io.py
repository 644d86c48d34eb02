from __future__ import annotations

import os
import pickle

import ml_dtypes
import numpy as np
import pytest

from mindformers.checkpoint import ckpt_io
from mindformers.checkpoint.ckpt_io import CkptFile, write_ckpt
from mindformers.checkpoint.dtypes import BY_NAME
from mindformers.checkpoint.tensor_io import TensorToWrite, array_to_write
from mindformers.errors import CheckpointError

RNG = np.random.default_rng(0)
ARRAYS = {
    "a.weight": RNG.normal(size=(6, 4)).astype(np.float32),
    "h": RNG.normal(size=(300,)).astype(np.float16),
    "b": RNG.normal(size=(2, 3, 2)).astype(ml_dtypes.bfloat16),
    "n": np.array(7, np.int32),
}


@pytest.mark.usefixtures("pynative")
def test_mindspore_reads_what_we_write(tmp_path):
    mindspore = pytest.importorskip("mindspore")
    path = write_ckpt(tmp_path / "a.ckpt", [array_to_write(n, a) for n, a in ARRAYS.items()])
    found = mindspore.load_checkpoint(str(path))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].asnumpy().tobytes() == array.tobytes(), name
        assert tuple(found[name].shape) == array.shape
        assert str(found[name].dtype).lower() == array.dtype.name


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("crc", [False, True])
def test_we_read_what_mindspore_writes(tmp_path, crc):
    mindspore = pytest.importorskip("mindspore")
    items = [
        {
            "name": n,
            "data": mindspore.Parameter(
                mindspore.Tensor(a.astype(np.float32)).astype(getattr(mindspore, a.dtype.name)),
                name=n,
            ),
        }
        for n, a in ARRAYS.items()
    ]
    extra = {"epoch_num": 3, "loss_scale": 0.5, "note": "hello 你好", "flag": True}
    path = str(tmp_path / "a.ckpt")
    mindspore.save_checkpoint(items, path, append_dict=extra, crc_check=crc)
    with CkptFile(path) as file:
        for name, array in ARRAYS.items():
            found = file.read(name)
            assert found.dtype == array.dtype
            assert found.tobytes() == array.tobytes()
            assert found.shape == array.shape
        assert file.read("epoch_num") == 3
        assert file.metadata["note"] == "hello 你好"


def test_a_tensor_in_several_entries_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(ckpt_io, "_SLICE_BYTES", 20)  # row borders and entry borders differ
    path = write_ckpt(tmp_path / "a.ckpt", [array_to_write(n, a) for n, a in ARRAYS.items()])
    with CkptFile(path) as file:
        assert len(file.tensors["a.weight"].segments) == 5
        assert (file.read("a.weight", 1, 5) == ARRAYS["a.weight"][1:5]).all()
        assert file.read("h").tobytes() == ARRAYS["h"].tobytes()


@pytest.mark.parametrize("keep", [0, 1, 7, 30, 200, -1])
def test_a_truncated_file_is_a_clear_error(tmp_path, keep):
    path = write_ckpt(tmp_path / "a.ckpt", [array_to_write(n, a) for n, a in ARRAYS.items()])
    os.truncate(path, keep if keep >= 0 else path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=r"a\.ckpt: (truncated|damaged)"):
        CkptFile(path)


def test_random_bytes_are_a_clear_error(tmp_path):
    rng = np.random.default_rng(1)
    good = write_ckpt(tmp_path / "a.ckpt", [array_to_write("h", ARRAYS["h"])]).read_bytes()
    for _ in range(300):
        data = bytearray(good)
        data[rng.integers(0, 40)] = rng.integers(0, 256)
        (tmp_path / "b.ckpt").write_bytes(data)
        try:
            with CkptFile(tmp_path / "b.ckpt") as file:
                for name in file.tensors:
                    file.read(name)
        except CheckpointError:
            pass


def test_a_pickle_named_ckpt_is_not_opened(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"a": [1] * 10}))
    with pytest.raises(CheckpointError, match="is a pickle.*save the weights as safetensors"):
        CkptFile(tmp_path / "a.ckpt")


def test_a_type_the_format_has_no_name_for_is_refused(tmp_path):
    array = np.zeros(3, ml_dtypes.float8_e5m2)
    with pytest.raises(CheckpointError, match=r"x: a \.ckpt cannot hold float8_e5m2"):
        write_ckpt(tmp_path / "a.ckpt", [array_to_write("x", array)])


def test_a_tensor_is_one_entry_until_the_size_of_an_entry_whatever_its_blocks(
    tmp_path, monkeypatch
):
    array = np.arange(24, dtype=np.float32).reshape(6, 4)
    tensor = TensorToWrite(
        "w", BY_NAME["float32"], (6, 4), lambda: [array[:1], array[1:5], array[5:]]
    )
    path = write_ckpt(tmp_path / "a.ckpt", [tensor])
    with CkptFile(path) as file:
        assert [length for _, length in file.tensors["w"].segments] == [96]
        np.testing.assert_array_equal(file.read("w"), array)
    monkeypatch.setattr(ckpt_io, "_SLICE_BYTES", 40)
    path = write_ckpt(tmp_path / "b.ckpt", [tensor])
    with CkptFile(path) as file:
        assert [length for _, length in file.tensors["w"].segments] == [40, 40, 16]
        np.testing.assert_array_equal(file.read("w"), array)
