from __future__ import annotations

import json
import os
import time
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mindformers.checkpoint import tensor_file
from mindformers.checkpoint.dtypes import BY_NAME
from mindformers.checkpoint.tensor_io import (
    SafeFile,
    TensorToWrite,
    array_to_write,
    write_safetensors,
)
from mindformers.errors import CheckpointError

RNG = np.random.default_rng(0)
ARRAYS = {
    "w": RNG.normal(size=(6, 4)).astype(np.float32),
    "half": RNG.normal(size=(3,)).astype(np.float16),
    "brain": RNG.normal(size=(5, 2)).astype(ml_dtypes.bfloat16),
    "count": np.array(7, np.int64),
    "empty": np.zeros((0, 4), np.float32),
}


def write(path: Path, arrays=ARRAYS) -> Path:
    return write_safetensors(path, [array_to_write(n, a) for n, a in arrays.items()], {"by": "us"})


def raw_file(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_the_safetensors_library_reads_what_we_write(tmp_path):
    path = write(tmp_path / "a.safetensors")
    found = load_file(path)
    for name, array in ARRAYS.items():
        assert found[name].tobytes() == array.tobytes(), name
        assert found[name].shape == array.shape
    with safe_open(path, "np") as handle:
        assert handle.metadata() == {"by": "us"}


def test_we_read_what_the_safetensors_library_writes(tmp_path):
    arrays = {n: a for n, a in ARRAYS.items() if n != "empty"}
    save_file(arrays, tmp_path / "a.safetensors", {"format": "pt"})
    with SafeFile(tmp_path / "a.safetensors") as file:
        assert file.metadata == {"format": "pt"}
        for name, array in arrays.items():
            found = file.read(name)
            assert found.dtype == array.dtype
            assert found.tobytes() == array.tobytes()


def test_rows_are_read_alone_and_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "BLOCK_BYTES", 32)  # two rows of w
    with SafeFile(write(tmp_path / "a.safetensors")) as file:
        assert (file.read("w", 1, 4) == ARRAYS["w"][1:4]).all()
        blocks = list(file.blocks("w", 1))
        assert [len(block) for block in blocks] == [2, 2, 1]
        assert (np.concatenate(blocks) == ARRAYS["w"][1:]).all()


def test_a_written_file_holds_one_block_in_memory(tmp_path):
    block = np.zeros((1024, 256), np.float32)  # 1 MiB
    tensors = [
        TensorToWrite("x", BY_NAME["float32"], (64 * 1024, 256), lambda: (block for _ in range(64)))
    ]
    tracemalloc.start()
    write_safetensors(tmp_path / "a.safetensors", tensors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 2**20
    assert (tmp_path / "a.safetensors").stat().st_size > 64 * 2**20


@pytest.mark.parametrize(
    ("produce", "message"),
    [
        (lambda: np.zeros(3, np.float32), "x: produced 12 bytes, announced 8"),
        (lambda: np.zeros(4, np.float16), "x: produced as float16, announced as float32"),
    ],
)
def test_a_producer_that_breaks_its_word_leaves_no_file(tmp_path, produce, message):
    with pytest.raises(CheckpointError, match=message):
        write_safetensors(
            tmp_path / "a.safetensors", [TensorToWrite("x", BY_NAME["float32"], (2,), produce)]
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (0, r"a\.safetensors: truncated: 0 bytes"),
        (7, "truncated: 7 bytes"),
        (100, "truncated in the header: 100 bytes, expected more than"),
        (-1, r"truncated in the data of .*: \d+ bytes, expected \d+"),
    ],
)
def test_a_truncated_file_is_named_with_its_size(tmp_path, keep, message):
    path = write(tmp_path / "a.safetensors")
    os.truncate(path, keep if keep >= 0 else path.stat().st_size + keep)
    with pytest.raises(CheckpointError, match=message):
        SafeFile(path)


def test_bytes_after_the_last_tensor_are_refused(tmp_path):
    path = write(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="1 bytes after the last tensor"):
        SafeFile(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(dtype="F33")}, r"a: unknown dtype 'F33'; did you mean 'F32'"),
        ({"a": entry(dtype=["F32"])}, "unknown dtype"),
        ({"a": entry(shape=(-2,))}, r"a: shape \[-2\]"),
        ({"a": entry(shape=(True,))}, "shape"),
        ({"a": entry(shape=(2**61, 4), offsets=(0, 8))}, "data_offsets span 8 bytes"),
        ({"a": entry(shape=[1] * 9, offsets=(0, 4))}, "allowed: up to 8 sizes"),
        ({"a": entry(offsets=(-8, 0))}, "data_offsets"),
        (
            {"a": entry(offsets=(0, 4))},
            r"data_offsets span 4 bytes, shape \[2\] of float32 needs 8",
        ),
        ({"a": entry(offsets=(8, 0))}, "data_offsets span -8 bytes"),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, "b: its bytes overlap another tensor"),
        ({"a": entry(), "b": entry()}, "overlap"),
        ({"a": entry(offsets=(4, 12))}, "4 bytes before it belong to no tensor"),
        ({"a": entry(), "b": entry(offsets=(8, 16))}, "truncated in the data of 'b'"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "a: malformed entry"),
        ({"a": 5}, "malformed entry"),
        ([], "header is damaged: it is no JSON object"),
        ({"__metadata__": {"a": 1}}, "__metadata__ must map text to text"),
        (b'{"a":1,"a":2}', "the name 'a' occurs twice"),
        (b"\xff\xfe", "header is damaged"),
        (b"{" * 5000, "header is damaged"),
        (b"[" * 200_000, "header is damaged"),
        (b'{"a":' + b"9" * 100_000 + b"}", "header is damaged|malformed"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header, message):
    path = raw_file(tmp_path / "a.safetensors", header, b"\0" * 12)
    with pytest.raises(CheckpointError, match=message):
        SafeFile(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: raw_file(path, {}, length=2**63),
        lambda path: raw_file(path, b" " * (200 * 2**20)),
        lambda path: raw_file(path, b"{" + b",".join(b'"%d":0' % i for i in range(10**6)) + b"}"),
        lambda path: raw_file(
            path,
            json.dumps({str(i): entry("I8", (1,), (i, i + 1)) for i in range(25_000)}).encode(),
            b"\0" * 25_000,
        ),
        lambda path: raw_file(path, b"[" + b"[]," * 2_000_000 + b"[]]"),
        lambda path: path.write_bytes(b"PK\x03\x04" + b"\0" * 100),
    ],
)
def test_an_oversized_header_costs_little_time_and_memory(tmp_path, make):
    path = tmp_path / "a.safetensors"
    make(path)
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(CheckpointError, match="header of|too many tensors"):
        SafeFile(path)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 1
    assert peak < 100 * 2**20


def test_twenty_thousand_tensors_are_accepted_in_a_second(tmp_path):
    header = {f"t{i}": entry("I8", (1,), (i, i + 1)) for i in range(19_000)}
    path = raw_file(tmp_path / "a.safetensors", header, b"\0" * 19_000)
    start = time.process_time()
    with SafeFile(path) as file:
        assert len(file.tensors) == 19_000
    assert time.process_time() - start < 1


def test_a_file_that_shrinks_while_open_is_a_clear_error(tmp_path):
    path = write(tmp_path / "a.safetensors")
    with SafeFile(path) as file:
        os.truncate(path, path.stat().st_size - 40)
        with pytest.raises(CheckpointError, match="the file ended early"):
            for name in file.tensors:
                file.read(name)


def test_a_directory_or_an_absent_file_is_a_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match="cannot read: Is a directory"):
        SafeFile(tmp_path)
    with pytest.raises(CheckpointError, match=r"x\.safetensors: cannot read: No such file"):
        SafeFile(tmp_path / "x.safetensors")
