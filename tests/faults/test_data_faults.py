"""What bad data does: a line that says what and where, nothing half written, no process left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mindformers.dataset import workers
from mindformers.dataset.encoding import encode_files
from mindformers.dataset.pipeline import ReadOptions, TrainDataset
from mindformers.dataset.row_encoder import EncodeOptions
from mindformers.errors import DataError
from mindformers.guard import run_guarded
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.tools.dataset_preprocess.glm4 import glm4_preprocess
from tests.support.mindrecords import drop_facts, numbered_rows, write_foreign, write_numbered
from tests.support.vocab import write_tiny_vocab

GOOD = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'
BAD_LINES = {
    "broken": (b'{"messages": [', "the line is no JSON"),
    "NUL": (GOOD.replace(b"q", b"\0"), "holds a NUL byte"),
    "lone surrogate": (
        GOOD.replace(b'"q"', b'"\\ud83d"'),
        "messages[0]: holds half a surrogate pair",
    ),
    "not UTF-8": (GOOD.replace(b"q", b"\xff"), "is not UTF-8"),
    "wrong keys": (b'{"mesages": []}', "a row with the keys mesages"),
    "roles out of order": (
        GOOD.replace(b'"user"', b'"assistant"'),
        "messages[0]: the conversation begins with",
    ),
    "empty content": (
        GOOD.replace(b'"a"', b'""'),
        "messages[1]: the content of the assistant message is empty",
    ),
    "no assistant": (
        b'{"messages": [{"role": "user", "content": "q"}]}',
        "no message is an assistant's",
    ),
    "unknown role": (GOOD.replace(b'"user"', b'"human"'), "messages[0]: unknown role 'human'"),
    "no object": (b"[1, 2]", "the row is a JSON array"),
    "50 MB": (b'{"messages": "' + b"x" * (50 * 2**20) + b'"}', "the line is longer than 16 MiB"),
}


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vocab(tmp_path_factory.mktemp("vocab"))


def preprocess(folder: Path, vocab: Path, *more: str) -> int:
    return run_guarded(glm4_preprocess.main, [
        "--input_glob", str(folder / "in.jsonl"), "--output_file", str(folder / "out.mindrecord"),
        "--vocab_file", str(vocab), "--seq_length", "16", "--num_workers", "1", *more])  # fmt: skip


@pytest.mark.parametrize("fault", BAD_LINES)
def test_a_bad_line_is_named_and_stops_the_work(
    tmp_path: Path, vocab: Path, capsys, fault: str
) -> None:
    line, message = BAD_LINES[fault]
    (tmp_path / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n" + line + b"\n" + GOOD)
    assert preprocess(tmp_path, vocab) == 2
    shown = capsys.readouterr()
    assert f"error: {tmp_path}/in.jsonl:3: " in shown.err
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_bad_lines_are_skipped_and_counted_when_asked_for(
    tmp_path: Path, vocab: Path, capsys
) -> None:
    lines = [line for line, _ in BAD_LINES.values()]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join([GOOD, *lines, GOOD]))
    assert preprocess(tmp_path, vocab, "--on_error", "skip") == 0
    shown = capsys.readouterr()
    counts = dict(re.findall(r"^ +([a-z ]+?)  +(\d+)$", shown.out, re.MULTILINE))
    assert (counts["rows read"], counts["rows written"], counts["malformed"]) == (
        str(len(lines) + 2),
        "2",
        str(len(lines)),
    )
    assert f"in.jsonl:2: {BAD_LINES['broken'][1]}" in shown.err


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_an_error(tmp_path: Path, vocab: Path, capsys, content: bytes) -> None:
    (tmp_path / "in.jsonl").write_bytes(content)
    assert preprocess(tmp_path, vocab) == 2
    assert "in.jsonl: the file is empty" in capsys.readouterr().err


def test_no_row_left_is_an_error_that_says_why(tmp_path: Path, vocab: Path, capsys) -> None:
    (tmp_path / "in.jsonl").write_bytes(GOOD.replace(b'"q"', b'"' + b"q" * 50 + b'"'))
    assert preprocess(tmp_path, vocab) == 2
    message = capsys.readouterr().err
    assert "none of 1 rows is left to write; the first one: " in message
    assert "every label would be -100: the answer begins after token 16" in message
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_an_empty_array_is_an_error(tmp_path: Path, vocab: Path, capsys) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"[ ]")
    assert preprocess(tmp_path, vocab) == 2
    assert (
        "in.jsonl: none of 0 rows is left to write; give a file with rows"
        in capsys.readouterr().err
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_missing_vocabulary_is_an_error_before_anything_is_written(
    tmp_path: Path, capsys
) -> None:
    (tmp_path / "in.jsonl").write_bytes(GOOD)
    assert preprocess(tmp_path, tmp_path / "tokenizer.model") == 2
    assert "tokenizer.model" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


# --- MindRecord files that cannot be trained on


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("data") / "a.mindrecord", 40)


def copied(good: Path, folder: Path) -> Path:
    for suffix in ("", ".db"):
        shutil.copy(f"{good}{suffix}", folder)
    return folder / good.name


@pytest.mark.parametrize("size", [0, 4, 7, 100, 2**24, "all but a byte"])
def test_a_truncated_file_is_named(good: Path, tmp_path: Path, size: int | str) -> None:
    path = copied(good, tmp_path)
    os.truncate(path, size if isinstance(size, int) else path.stat().st_size - 1)
    with pytest.raises(DataError, match=r"a.mindrecord: (the file is truncated: \d+ bytes; allowed: at least \d+"
                                        r"|this is no MindRecord file, or it is truncated \(\d+ bytes\)"
                                        r"|the content has changed)"):  # fmt: skip
        TrainDataset(path)


def test_a_truncated_file_of_another_writer_is_named(good: Path, tmp_path: Path) -> None:
    path = copied(good, tmp_path)
    drop_facts(path)
    os.truncate(path, 2**25)
    with pytest.raises(DataError, match=r"a.mindrecord: the file is truncated: \d+ bytes"):
        TrainDataset(path)


def test_changed_bytes_are_found_before_mindspore_reads_them(good: Path, tmp_path: Path) -> None:
    path = copied(good, tmp_path)
    with path.open("r+b") as stream:
        stream.seek(2**24 + 40)
        stream.write(b"\xff")
    with pytest.raises(
        DataError,
        match=r"the content has changed since the file was written \(its sha256 differs\)",
    ):
        TrainDataset(path)


def test_a_missing_or_damaged_index_is_named(good: Path, tmp_path: Path) -> None:
    path = copied(good, tmp_path)
    index = tmp_path / "a.mindrecord.db"
    with pytest.raises(
        DataError, match=r"this is an index file; give the data file beside it: a.mindrecord$"
    ):
        TrainDataset(index)
    os.truncate(index, 5000)
    with pytest.raises(DataError, match=r"a.mindrecord.db: the index is damaged: "):
        TrainDataset(path)
    index.write_bytes(b"")
    with pytest.raises(DataError, match="the index is damaged: no such table"):
        TrainDataset(path)
    index.unlink()
    with pytest.raises(DataError, match="the index file a.mindrecord.db is missing beside it"):
        TrainDataset(path)


def test_a_renamed_file_is_named_with_its_old_name(good: Path, tmp_path: Path) -> None:
    for suffix in ("", ".db"):
        shutil.copy(f"{good}{suffix}", tmp_path / f"b.mindrecord{suffix}")
    with pytest.raises(
        DataError,
        match=r"MindRecord files cannot be renamed; rename both files back to a.mindrecord",
    ):
        TrainDataset([tmp_path / "b.mindrecord"])


def test_another_schema_is_named(tmp_path: Path) -> None:
    row = {"ids": np.arange(4, dtype=np.int32)}
    path = write_foreign(
        tmp_path / "a.mindrecord", [row], {"ids": {"type": "int32", "shape": [-1]}}
    )
    with pytest.raises(
        DataError, match="the file has the columns ids; allowed: input_ids and labels"
    ):
        TrainDataset(path)
    row = {"input_ids": np.zeros(4, np.float32), "labels": np.zeros(4, np.float32)}
    schema = {name: {"type": "float32", "shape": [-1]} for name in row}
    path = write_foreign(tmp_path / "b.mindrecord", [row], schema)
    with pytest.raises(
        DataError, match=r"column input_ids is float32 \[-1\]; allowed: int32 \[-1\]"
    ):
        TrainDataset(path)


def test_a_missing_partition_is_named(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mindrecord", 12, partitions=3)
    for suffix in ("", ".db"):
        Path(f"{path}1{suffix}").unlink()
    for source in (tmp_path, path):
        with pytest.raises(
            DataError, match="belongs to a data set of 3 files, of which a.mindrecord1 is missing"
        ):
            TrainDataset(source)


def test_another_row_length_is_named_with_both_ways_out(good: Path) -> None:
    with pytest.raises(DataError, match=r"rows have 8 tokens, the model's seq_length is 16; set "
                                        r"model.model_config.seq_length to 8, or .*--seq_length 16"):  # fmt: skip
        TrainDataset(good, seq_length=16)


def test_an_id_beyond_the_vocabulary_is_named(good: Path) -> None:
    with pytest.raises(
        DataError, match=r"token id 39 is beyond the model's vocabulary; allowed: 0 to 38 \(padded"
    ):
        TrainDataset(good, vocab_size=39)
    assert len(TrainDataset(good, vocab_size=40)) == 40


def test_negative_ids_and_ragged_rows_are_named(tmp_path: Path) -> None:
    ids, labels = numbered_rows(3)
    ids[1, 3] = -5
    rows = [{"input_ids": i, "labels": j} for i, j in zip(ids, labels, strict=True)]
    with pytest.raises(DataError, match="a.mindrecord:2: input_ids holds -5"):
        TrainDataset(write_foreign(tmp_path / "a.mindrecord", rows), vocab_size=10)
    rows[1] = {"input_ids": ids[0][:5], "labels": labels[0][:5]}
    with pytest.raises(
        DataError, match="b.mindrecord:2: rows have 5 tokens, the model's seq_length is 8"
    ):
        TrainDataset(write_foreign(tmp_path / "b.mindrecord", rows))


@pytest.mark.parametrize(("make", "message"), [
    (lambda folder: folder / "none.mindrecord", "there is no such file"),
    (lambda folder: folder, "the folder holds no MindRecord file"),
    (lambda folder: [], "the list of data files is empty"),
    (lambda folder: "", "no training data is given; add --train_dataset"),
])  # fmt: skip
def test_no_data_is_an_error(tmp_path: Path, make, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TrainDataset(make(tmp_path))


def test_a_text_file_is_no_mindrecord_file(tmp_path: Path) -> None:
    (tmp_path / "a.mindrecord").write_text('{"messages": []}\n' * 100)
    with pytest.raises(DataError, match="this is no MindRecord file"):
        TrainDataset(tmp_path / "a.mindrecord")


def test_fewer_rows_than_a_batch_is_an_error(good: Path) -> None:
    with pytest.raises(DataError, match="40 rows make no batch of 64"):
        TrainDataset(good, ReadOptions(batch_size=64))


# --- Worker processes


class Misbehaving:
    """A tokenizer that dies or hangs in a worker when a conversation says so."""

    def __init__(self, tokenizer: ChatGLM4Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str):
        return getattr(self._tokenizer, name)

    def render(self, messages, tools=None):
        if messages[0]["content"] == "die":
            os._exit(1)
        if messages[0]["content"] == "hang":
            time.sleep(600)
        return self._tokenizer.render(messages, tools)


@pytest.mark.parametrize(("word", "message"), [
    ("die", "a worker process died while it encoded the rows from here on"),
    ("hang", "a worker process gave no answer for 1 s on the rows from here on"),
])  # fmt: skip
def test_a_worker_that_dies_or_hangs_ends_the_work(
    tmp_path: Path, vocab: Path, monkeypatch, word, message
) -> None:
    import multiprocessing

    path = tmp_path / "in.jsonl"
    path.write_bytes(
        b"\n".join([*[GOOD] * 200, GOOD.replace(b'"q"', json.dumps(word).encode()), *[GOOD] * 200])
    )
    monkeypatch.setattr(workers, "WORKER_TIMEOUT", 1.0)
    before = set(multiprocessing.active_children())
    with pytest.raises(DataError, match=f"in.jsonl:(1|65|129|193): {message}"):
        list(
            encode_files(
                [path], Misbehaving(ChatGLM4Tokenizer(vocab)), EncodeOptions(16), num_workers=2
            )
        )
    assert set(multiprocessing.active_children()) == before


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_no_output_and_no_process(
    tmp_path: Path, vocab: Path, number: int
) -> None:
    (tmp_path / "in.jsonl").write_bytes((GOOD + b"\n") * 2000)
    command = [
        sys.executable, glm4_preprocess.__file__, "--input_glob", str(tmp_path / "in.jsonl"),
        "--vocab_file", str(vocab), "--output_file", str(tmp_path / "out.mindrecord"),
        "--seq_length", "64", "--num_workers", "2", "--repeat", "1000000",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        workers: list[int] = []
        while time.monotonic() < deadline:
            workers = children(process.pid)
            if len(workers) >= 2 and list(tmp_path.glob(".tmp-*/out.mindrecord")):
                break
            time.sleep(0.1)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert len(workers) >= 2
    assert (
        process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    )
    assert "Traceback" not in errors
    assert output == ""
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, workers))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert [name for name in left if not name.startswith(".tmp-")] == ["in.jsonl"]
    if number != signal.SIGKILL:
        assert left == ["in.jsonl"]
    assert preprocess(tmp_path, vocab) == 0  # needs no --overwrite, and clears what was left
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl",
        "out.mindrecord",
        "out.mindrecord.db",
    ]
