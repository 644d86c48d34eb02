"""The cache of token ids when things go wrong: killed writers, several at once, folders that cannot be written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindformers.checkpoint.atomic import TEMP_PREFIX
from mindformers.dataset.row_store import RowStore, RowWriter, TokenPacker, stored_rows
from mindformers.dataset.tally import Tally
from mindformers.errors import CheckpointError, DataError
from tests.support.vocab import write_tiny_vocab

ROOT = Path(__file__).resolve().parents[2]


def rows(count: int) -> tuple[list[np.ndarray], np.ndarray]:
    lengths = np.arange(1, count + 1)
    ids = np.arange(lengths.sum(), dtype=np.int32)
    labels = np.where(ids % 3 == 0, -100, ids).astype(np.int32)
    return [ids, labels], lengths


def make(cache: Path, count: int = 4, name: str = "x") -> RowStore:
    def write(writer: RowWriter) -> Tally:
        if count:
            writer.write(TokenPacker().pack(*rows(count)))
        return Tally(rows_read=count)

    return stored_rows(cache, {"name": name}, write)


def entries(cache: Path) -> list[str]:
    return sorted(each.name for each in cache.iterdir() if each.suffix != ".lock")


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    store = make(tmp_path / "new" / "cache")
    (ids, labels), lengths = rows(4)
    seams = np.cumsum(lengths)[:-1]
    for index, (one, other) in enumerate(
        zip(np.split(ids, seams), np.split(labels, seams), strict=True)
    ):
        for found, expected in zip(
            store.row(index, int(lengths[index])), (one, other), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
    # ids 0 | 1 2 | 3 4 5 | 6 7 8 9, of which every third has no label
    assert store.useful.tolist() == [0, 2, 3, 3]
    assert store.trained.tolist() == [0, 2, 2, 2]
    assert store.max_id == 9


def test_a_writer_that_died_leaves_nothing_that_is_taken_for_rows(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f"{TEMP_PREFIX}{dead.pid}-0badcafe"
    left.mkdir()
    (left / "ids.bin").write_bytes(b"half")
    make(tmp_path)
    assert not left.exists()
    (entry,) = entries(tmp_path)
    assert entry.startswith("rows-")


def test_a_failed_write_leaves_the_cache_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path)
    before = entries(tmp_path)

    def fail(self: Any, facts: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RowWriter, "finish", fail)
    with pytest.raises(CheckpointError, match="(?i)space"):
        make(tmp_path, name="y")
    assert entries(tmp_path) == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file"):
        make(tmp_path / "file" / "cache")


def test_an_input_without_a_row_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 0 rows is left to train on"):
        make(tmp_path, count=0)


_TRAIN = """
import sys
from mindformers.dataset import text_rows
from mindformers.dataset.row_encoder import EncodeOptions
from mindformers.dataset.text_rows import rows_of_text
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from pathlib import Path
encode = text_rows.encode_files

def encode_and_say(*arguments, **settings):
    print("encoding", file=sys.stderr)
    return encode(*arguments, **settings)

text_rows.encode_files = encode_and_say
store = rows_of_text(sys.argv[1], ChatGLM4Tokenizer(sys.argv[2]), EncodeOptions(64), cache_dir=Path(sys.argv[3]))
print(store.fingerprint, int(store.ids.sum()), len(store))
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("material")
    data = folder / "a.jsonl"
    lines = [
        json.dumps({"instruction": f"Say {i}", "output": "one two " * (i % 7 + 1)})
        for i in range(3000)
    ]
    data.write_text("\n".join(lines), encoding="utf-8")
    return data, write_tiny_vocab(folder)


def start(material: tuple[Path, Path], cache: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _TRAIN, *map(str, material), str(cache)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_of_several_processes_one_makes_the_rows(
    material: tuple[Path, Path], tmp_path: Path
) -> None:
    processes = [start(material, tmp_path) for _ in range(3)]
    answers = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    assert len({said for said, _errors in answers}) == 1
    assert sum(errors.count("encoding\n") for _said, errors in answers) == 1
    assert len(entries(tmp_path)) == 1


def test_a_killed_process_is_followed_by_a_whole_cache(
    material: tuple[Path, Path], tmp_path: Path
) -> None:
    process = start(material, tmp_path)
    while process.poll() is None and not list(tmp_path.glob(".*")):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    again = start(material, tmp_path)
    said, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    assert said.split()[-1] == "3000"
    assert len(entries(tmp_path)) == 1
