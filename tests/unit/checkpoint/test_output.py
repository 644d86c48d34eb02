from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from mindformers.checkpoint import output, tensor_file
from mindformers.checkpoint.atomic import atomic_file
from mindformers.checkpoint.output import OutputFile
from mindformers.errors import CheckpointError

BLOCK = 4096


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(tensor_file, "BLOCK_BYTES", BLOCK)


@pytest.fixture
def direct(monkeypatch):
    """Every file is written directly where the file system can."""
    monkeypatch.setattr(output, "DIRECT_BYTES", 0)


def some_bytes(count: int) -> bytes:
    return np.random.default_rng(count).integers(0, 256, count, np.uint8).tobytes()


def is_direct(handle: int) -> bool:
    return bool(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT)


@pytest.mark.parametrize("how", ["cached", "direct"])
@pytest.mark.parametrize("sizes", [(), (0,), (1,), (4096,), (4095, 2), (8, 100_000, 3, 4096, 7)])
def test_the_file_holds_what_was_written_in_order(tmp_path, monkeypatch, sizes, how):
    monkeypatch.setattr(output, "DIRECT_BYTES", 0 if how == "direct" else 2**60)
    parts = [some_bytes(size) for size in sizes]
    with OutputFile(tmp_path / "f", 1) as file:
        for part in parts:
            file.write(part)
    assert (tmp_path / "f").read_bytes() == b"".join(parts)


def test_memory_may_change_as_soon_as_it_was_written(tmp_path):
    memory = bytearray(BLOCK // 2)
    with OutputFile(tmp_path / "f", 1) as file:
        for number in range(100):
            memory[:] = bytes([number]) * len(memory)
            file.write(memoryview(memory))
    written = np.frombuffer((tmp_path / "f").read_bytes(), np.uint8).reshape(100, -1)
    assert (written == np.arange(100)[:, None]).all()


def test_only_a_large_file_passes_by_the_page_cache(tmp_path):
    with OutputFile(tmp_path / "a", output.DIRECT_BYTES - 1) as file:
        assert not is_direct(file._handle)
    with OutputFile(tmp_path / "b", output.DIRECT_BYTES) as file:
        pass  # whether it can is the file system's business


@pytest.mark.usefixtures("direct")
def test_a_file_system_that_refuses_direct_writes_gets_them_through_the_cache(
    tmp_path, monkeypatch
):
    plain, refused = os.pwrite, []

    def pwrite(handle, data, offset):
        if is_direct(handle):
            refused.append(offset)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return plain(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    data = some_bytes(5 * BLOCK + 10)
    with OutputFile(tmp_path / "f", 1) as file:
        file.write(data)
    assert (tmp_path / "f").read_bytes() == data
    assert refused in ([], [0])


def test_a_write_that_takes_only_a_part_is_gone_on_with(tmp_path, monkeypatch):
    plain = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, offset: plain(handle, data[:99], offset))
    data = some_bytes(3 * BLOCK + 10)
    with OutputFile(tmp_path / "f", 1) as file:
        file.write(data)
    assert (tmp_path / "f").read_bytes() == data


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize("blocks", [0, 1, 2, 30])
def test_a_full_disk_is_told_wherever_it_shows(tmp_path, monkeypatch, blocks):
    plain, threads = os.pwrite, threading.active_count()

    def pwrite(handle, data, offset):
        if offset >= blocks * BLOCK:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    target = tmp_path / "f"
    with (
        pytest.raises(CheckpointError, match="cannot write: No space left on device"),
        atomic_file(target) as temp,
        OutputFile(temp, 1) as file,
    ):
        for _ in range(40):
            file.write(some_bytes(BLOCK + 1))
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads


def test_an_interruption_ends_the_thread_and_closes_the_file(tmp_path):
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt), OutputFile(tmp_path / "f", 1) as file:
        file.write(some_bytes(50 * BLOCK))
        raise KeyboardInterrupt
    assert threading.active_count() == threads
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file._handle)


def test_memory_is_a_few_blocks_whatever_the_size(tmp_path, monkeypatch):
    made = []
    plain = OutputFile._new_block
    monkeypatch.setattr(OutputFile, "_new_block", lambda self: (made.append(1), plain(self))[1])
    with OutputFile(tmp_path / "f", 1) as file:
        file.write(bytes(200 * BLOCK))
    assert len(made) <= 4
    assert Path(tmp_path / "f").stat().st_size == 200 * BLOCK
