from __future__ import annotations

import gc
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from mindformers.checkpoint.dtypes import BY_NAME
from mindformers.checkpoint.mapped import open_mapped
from mindformers.checkpoint.tensor_io import array_to_write, write_safetensors
from mindformers.errors import CheckpointError

ARRAYS = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.array([1.5, -2.0, 3.25], ml_dtypes.bfloat16),
    "fp16": np.array([[0.5], [2.0]], np.float16),
    "codes": np.array([-3, 7], np.int8),
    "nibbles": np.array([250, 1, 2], np.uint8),
    "eighth": np.array([1.0, 2.0], ml_dtypes.float8_e5m2),
    "scalar": np.array(9, np.int64),
    "empty": np.zeros((0, 5), np.float32),
}


def write(path: Path, arrays=ARRAYS, metadata=None) -> Path:
    tensors = [array_to_write(name, array) for name, array in arrays.items()]
    return write_safetensors(path, tensors, metadata)


def open_handles() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_tensors_have_the_bytes_types_and_shapes_of_the_file(tmp_path):
    mapped = open_mapped(write(tmp_path / "a.safetensors", metadata={"format": "pt"}))
    assert list(mapped) == list(ARRAYS)
    assert mapped.metadata == {"format": "pt"}
    for name, array in ARRAYS.items():
        found = mapped[name]
        assert (found.name, found.dtype, found.shape) == (name, array.dtype.name, array.shape)
        assert found.array.shape == array.shape
        assert found.array.tobytes() == array.tobytes()
        assert found.array.dtype.isbuiltin == 1
        assert found.address == found.array.ctypes.data or found.array.size == 0
    assert mapped["half"].array.dtype == np.uint16
    assert mapped["eighth"].array.dtype == np.uint8


def test_tensors_are_read_only_views_of_one_mapping(tmp_path):
    mapped = open_mapped(write(tmp_path / "a.safetensors"))
    with pytest.raises(ValueError, match="read-only"):
        mapped["matrix"].array[0, 0] = 1
    gap = mapped["half"].address - mapped["matrix"].address
    assert gap == ARRAYS["matrix"].nbytes


def test_rows_are_a_part_of_the_same_memory(tmp_path):
    matrix = open_mapped(write(tmp_path / "a.safetensors"))["matrix"]
    part = matrix.rows(1, 3)
    assert part.shape == (2, 4)
    assert part.address == matrix.address + 16
    np.testing.assert_array_equal(part.array, ARRAYS["matrix"][1:3])
    assert matrix.rows(0, 3) is matrix


def test_a_tensor_outlives_its_mapping_and_the_files_name(tmp_path):
    path = write(tmp_path / "a.safetensors")
    matrix = open_mapped(path)["matrix"].array
    path.unlink()
    gc.collect()
    np.testing.assert_array_equal(matrix, ARRAYS["matrix"])


def test_handles_and_memory_go_when_the_last_tensor_goes(tmp_path):
    path = write(tmp_path / "a.safetensors")
    before = open_handles()
    tensor = open_mapped(path)["half"]
    assert str(path) in Path("/proc/self/maps").read_text()
    del tensor
    assert open_handles() == before
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_a_tensor_that_starts_between_two_elements_is_copied(tmp_path):
    arrays = {"odd": np.array([1, 2, 3], np.uint8), "matrix": ARRAYS["matrix"]}
    mapped = open_mapped(write(tmp_path / "a.safetensors", arrays))
    matrix = mapped["matrix"]
    np.testing.assert_array_equal(matrix.array, ARRAYS["matrix"])
    assert matrix.address % 4 == 0
    assert not matrix.array.flags.writeable
    assert matrix.address != mapped["odd"].address + 3


def test_mapping_reads_no_tensor(tmp_path):
    size = 64 * 2**20
    path = write(tmp_path / "a.safetensors", {"large": np.ones(size, np.uint8)})
    gc.collect()
    before = resident_bytes()
    large = open_mapped(path)["large"]
    assert resident_bytes() - before < size // 8
    assert int(large.array[:: 2**12].sum()) == size // 2**12


def test_shards_are_one_mapping(tmp_path):
    import json

    names = list(ARRAYS)
    for number, part in enumerate((names[:4], names[4:]), start=1):
        write(tmp_path / f"m-{number}.safetensors", {name: ARRAYS[name] for name in part})
    index = {name: f"m-{1 + (i >= 4)}.safetensors" for i, name in enumerate(names)}
    text = json.dumps({"weight_map": index})
    (tmp_path / "model.safetensors.index.json").write_text(text)
    mapped = open_mapped(tmp_path)
    assert list(mapped) == names
    assert mapped["codes"].array.tolist() == [-3, 7]
    assert len(mapped) == len(names)


def test_another_kind_of_file_is_refused(tmp_path):
    from mindformers.checkpoint.ckpt_io import write_ckpt

    path = write_ckpt(tmp_path / "a.ckpt", [array_to_write("w", ARRAYS["matrix"])])
    with pytest.raises(CheckpointError, match=r"a\.ckpt: cannot be mapped.*\.safetensors"):
        open_mapped(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        open_mapped(tmp_path / "b.safetensors")


@pytest.mark.parametrize("cut", [0, 4, 9, 100, -1])
def test_a_cut_file_is_refused_before_it_is_mapped(tmp_path, cut):
    path = write(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:cut])
    before = open_handles()
    with pytest.raises(CheckpointError, match="truncated"):
        open_mapped(path)
    assert open_handles() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"F32"', b'"F99"'), (b"[3,4]", b"[3,9]"), (b'"shape"', b'"shapf"'), (b"{", b"[")],
)
def test_a_header_that_is_not_true_is_refused(tmp_path, old, new):
    path = write(tmp_path / "a.safetensors")
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        open_mapped(path)


def test_every_element_type_has_an_array_type_of_its_size():
    from mindformers.checkpoint import mapped

    for dtype in BY_NAME.values():
        held = mapped._held_as(dtype)
        assert (held.isbuiltin, held.itemsize) == (1, dtype.bytes)
