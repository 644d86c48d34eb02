from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mindformers.checkpoint import atomic
from mindformers.errors import CheckpointError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_as_utf8_with_its_line_ends(tmp_path):
    path = atomic.write_text(tmp_path / "中 文" / "a.txt", "你好\r\n")
    assert path.read_bytes() == "你好\r\n".encode()
    assert names(path.parent) == ["a.txt"]


def test_an_error_in_the_body_leaves_the_old_file_and_no_temporary(tmp_path):
    path = atomic.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(KeyboardInterrupt), atomic.atomic_file(path) as temp:
        temp.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_temporary_lies_in_the_same_folder_and_keeps_the_suffix(tmp_path):
    with atomic.atomic_file(tmp_path / "a.safetensors") as temp:
        assert temp.parent == tmp_path
        assert temp.suffix == ".safetensors"
        temp.write_text("x")


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    target = atomic.write_text(tmp_path / "real.txt", "old")
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    atomic.write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_the_file_is_synced_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: steps.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
    )
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda a, b: (steps.append("rename"), replace(a, b))[1])
    atomic.write_text(tmp_path / "a.txt", "x")
    assert [Path(step).name.startswith(atomic.TEMP_PREFIX) for step in steps] == [
        True,
        False,
        False,
    ]
    assert steps[1:] == ["rename", str(tmp_path)]


def test_a_full_disk_names_needed_and_free_bytes(tmp_path, monkeypatch):
    usage = atomic.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: usage._replace(free=3))
    with pytest.raises(
        CheckpointError, match=r"a\.txt: cannot write: no space left \(5 bytes needed, 3 bytes"
    ):
        atomic.write_text(tmp_path / "a.txt", "12345")
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_on_the_way_is_a_clear_error(tmp_path):
    with (
        pytest.raises(
            CheckpointError, match=r"No space left on device \(\d+ bytes free\); free some space"
        ),
        atomic.atomic_file(tmp_path / "a.txt") as temp,
    ):
        temp.write_text("part")
        Path("/dev/full").write_text("x")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EACCES, "writable"),
        (errno.EROFS, "writable file system"),
        (errno.EIO, "check the disk"),
    ],
)
def test_a_refused_write_says_why_and_what_to_do(tmp_path, monkeypatch, code, advice):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(CheckpointError, match=f"{os.strerror(code)}.*{advice}"):
        atomic.write_text(tmp_path / "a.txt", "x")
    assert names(tmp_path) == []


def test_impossible_names_are_clear_errors(tmp_path):
    with pytest.raises(CheckpointError, match="File name too long; choose a shorter name"):
        atomic.write_text(tmp_path / ("a" * 300), "x")
    with pytest.raises(CheckpointError, match="Is a directory"):
        atomic.write_text(tmp_path, "x")
    atomic.write_text(tmp_path / "file", "x")
    with pytest.raises(CheckpointError, match="a file stands where a folder is needed"):
        atomic.write_text(tmp_path / "file" / "below", "x")


def test_a_temporary_of_a_running_process_is_no_leftover(tmp_path):
    parent, dead = os.getppid(), 999_999_999
    assert not atomic.is_leftover(tmp_path / f".tmp-{parent}-abababab")
    assert atomic.is_leftover(tmp_path / f".tmp-{dead}-abababab")
    assert not atomic.is_leftover(tmp_path / "model.safetensors")
    assert not atomic.is_leftover(tmp_path / ".tmp-of-another-program")
    with atomic.temp_name(tmp_path / "x") as temp:
        assert not atomic.is_leftover(temp)
    assert atomic.is_leftover(temp)
