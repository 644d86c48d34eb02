from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from mindformers.dataset.mindrecord import (
    check_output,
    existing_files,
    file_sha256,
    mindrecord_writer,
    partition_paths,
)
from mindformers.dataset.mindrecord_file import read_file, read_header
from mindformers.errors import DataError
from tests.support.mindrecords import numbered_rows, write_numbered


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def read_with_mindspore(files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    import mindspore.dataset as mds

    dataset = mds.MindDataset([str(file) for file in files], shuffle=False, num_parallel_workers=1)
    rows = list(dataset.create_dict_iterator(num_epochs=1, output_numpy=True))
    assert set(rows[0]) == {"input_ids", "labels"}
    return np.stack([row["input_ids"] for row in rows]), np.stack([row["labels"] for row in rows])


def test_a_data_set_reads_back_with_plain_mindspore(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "数据 set.mindrecord", 23, batch=7)
    ids, labels = read_with_mindspore([path])
    expected_ids, expected_labels = numbered_rows(23)
    assert ids.dtype == labels.dtype == np.int32
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(labels, expected_labels)
    assert names(tmp_path) == ["数据 set.mindrecord", "数据 set.mindrecord.db"]


def test_partitions_hold_all_rows_once(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mindrecord", 23, partitions=3, batch=10)
    files = partition_paths(path, 3)
    assert [file.name for file in files] == ["a.mindrecord0", "a.mindrecord1", "a.mindrecord2"]
    assert sorted(read_with_mindspore(files)[0][:, 0]) == list(range(23))
    assert sum(read_file(file).num_rows for file in files) == 23
    assert read_header(files[1]).partitions == tuple(file.name for file in files)


def test_partition_names_are_mindsporess_own_beyond_ten(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mindrecord", 24, partitions=11)
    assert all(file.is_file() for file in partition_paths(path, 11))
    assert partition_paths(path, 11)[1].name == "a.mindrecord01"


def test_the_index_notes_what_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mindrecord"
    with mindrecord_writer(path, facts={"vocab_hash": "abc"}) as writer:
        writer.write(*numbered_rows(5))
        assert writer.num_rows == 5
    facts = read_file(path).facts
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() == file_sha256(path)
    assert (facts["vocab_hash"], facts["seq_length"], facts["max_token_id"]) == ("abc", "8", "4")
    assert int(facts["size"]) == path.stat().st_size


def test_an_existing_output_is_kept_unless_overwriting(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mindrecord", 9, partitions=3)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    with pytest.raises(
        DataError, match=r"the output exists already \(a.mindrecord0, .*add --overwrite"
    ):
        write_numbered(path, 5)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    with mindrecord_writer(path, overwrite=True) as writer:
        writer.write(*numbered_rows(4))
    assert names(tmp_path) == [
        "a.mindrecord",
        "a.mindrecord.db",
    ]  # no partition of the old one is left
    assert len(read_with_mindspore([path])[0]) == 4


def test_a_failure_leaves_nothing_and_keeps_the_old_data(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mindrecord", 9)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), mindrecord_writer(path, overwrite=True) as writer:
        writer.write(*numbered_rows(4))
        raise ZeroDivisionError
    with (
        pytest.raises(DataError, match="there are no rows to write"),
        mindrecord_writer(path, overwrite=True),
    ):
        pass
    assert names(tmp_path) == ["a.mindrecord", "a.mindrecord.db"]
    assert path.read_bytes() == before


def test_the_old_data_returns_when_the_new_cannot_be_moved(tmp_path: Path, monkeypatch) -> None:
    path = write_numbered(tmp_path / "a.mindrecord", 9)
    before, rename = path.read_bytes(), Path.rename

    def failing(source: Path, target: Path) -> Path:
        if (
            source.parent != tmp_path
            and target.name == "a.mindrecord"
            and target.parent == tmp_path
        ):
            monkeypatch.setattr(Path, "rename", rename)
            raise OSError(28, "No space left on device")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", failing)
    with (
        pytest.raises(DataError, match="a.mindrecord: cannot write: No space left on device"),
        mindrecord_writer(path, overwrite=True) as writer,
    ):
        writer.write(*numbered_rows(4))
    assert names(tmp_path) == ["a.mindrecord", "a.mindrecord.db"]
    assert path.read_bytes() == before


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    dead = tmp_path / ".tmp-999999999-abcdef01"
    dead.mkdir()
    (dead / "a.mindrecord").write_bytes(b"half")
    write_numbered(tmp_path / "a.mindrecord", 3)
    assert names(tmp_path) == ["a.mindrecord", "a.mindrecord.db"]


def test_files_in_the_way_are_those_of_this_data_set_only(tmp_path: Path) -> None:
    own = ["a.mindrecord", "a.mindrecord.db", "a.mindrecord0", "a.mindrecord12.db"]
    for name in [*own, "b.mindrecord", "a.mindrecord.bak", "xa.mindrecord", "aXmindrecord"]:
        (tmp_path / name).touch()
    assert [file.name for file in existing_files(tmp_path / "a.mindrecord")] == own


@pytest.mark.parametrize(("name", "partitions", "message"), [
    ("a:b.mindrecord", 1, "MindRecord allows no : in a file name"),
    ("a&b;.mindrecord", 1, "MindRecord allows no & ; in a file name"),
    (" a.mindrecord", 1, "MindRecord allows no blanks around the name in a file name"),
    ("a.mindrecord", 0, "0 partitions; allowed: 1 to 1000"),
    ("a.mindrecord", 1001, "1001 partitions"),
])  # fmt: skip
def test_an_output_that_cannot_be_written_is_refused_before_work(
    tmp_path: Path, name, partitions, message
) -> None:
    with pytest.raises(DataError, match=message):
        check_output(tmp_path / name, partitions, overwrite=False)


def test_a_folder_in_the_way_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.mindrecord").mkdir()
    with pytest.raises(DataError, match="a folder has this name"):
        check_output(tmp_path / "a.mindrecord", 1, overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot write: Permission denied"):
        write_numbered(tmp_path / "a.mindrecord", 3)
