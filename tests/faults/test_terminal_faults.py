"""Closed streams, too little memory, and what is typed at the terminal."""

from __future__ import annotations

import io
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers.checkpoint.atomic import require_writable
from mindformers.cli.convert import main as convert
from mindformers.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    GenerationError,
    TokenizerError,
)
from mindformers.guard import run_guarded
from mindformers.tasks.chat import chat
from tests.support.model_dir import write_model_dir


class Typed(io.StringIO):
    """Lines as if typed at a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mindformers.parallel.runtime import start_runtime

    start_runtime(device_target="CPU", mode=1)
    return write_model_dir(tmp_path_factory.mktemp("model"))


# --- streams and memory --------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "ending"), [(0, "return 0"), (2, "raise ConfigError('x')")])
def test_a_command_whose_streams_are_closed_works_and_keeps_its_exit_code(
    code: int, ending: str
) -> None:
    script = (
        "import sys\nfrom mindformers.errors import ConfigError\n"
        "from mindformers.guard import run_guarded\n"
        f"def main(argv):\n    sys.stdout.isatty(); print('to nobody'); {ending}\n"
        "sys.exit(run_guarded(main, []))"
    )
    shell = 'exec "$0" -c "$1" >&- 2>&-'
    done = subprocess.run(["bash", "-c", shell, sys.executable, script], timeout=60, check=False)
    assert done.returncode == code


def test_too_little_memory_is_one_line_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv):
        raise MemoryError("Unable to allocate 175. TiB")

    assert run_guarded(main, []) == 1
    assert capsys.readouterr().err == (
        "error: not enough memory: Unable to allocate 175. TiB; use a smaller model, batch_size or "
        "seq_length, or a machine with more memory\n"
    )


# --- the terminal chat ---------------------------------------------------------------------------


def test_a_question_that_cannot_be_used_does_not_end_a_conversation_at_a_terminal(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "hello world " * 100
    assert chat(model, source=Typed(f"{long}\nhello\n"), max_new_tokens=4) == 1
    assert "error: prompt 0: has " in capsys.readouterr().out


def test_a_question_that_cannot_be_used_ends_a_script(model: Path) -> None:
    with pytest.raises(GenerationError, match="leaves no room for an answer"):
        chat(model, source=io.StringIO("hello world " * 100 + "\nhello\n"))


def test_a_setting_that_cannot_be_used_is_refused_before_the_model_is_looked_for() -> None:
    with pytest.raises(GenerationError, match=r"temperature: found -1\.0; allowed"):
        chat("no/such/folder/anywhere", temperature=-1.0, seed=3)


# --- conversion ----------------------------------------------------------------------------------


def arguments(model: Path, output: Path, *more: object) -> list[str]:
    return list(
        map(str, ["--model", "glm4", "--input_path", model, "--output_path", output, *more])
    )


def test_a_tokenizer_that_is_none_is_named_before_anything_is_written(
    model: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "tokenizer.model"
    wrong.write_text("root:x:0:0\n", encoding="utf-8")
    with pytest.raises(TokenizerError, match=f"^{wrong}:1: 'root:x:0:0' is not 'base64 rank'"):
        convert(arguments(model, tmp_path / "out", "--reversed", "--tokenizer", wrong))
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ConfigError,
        match="--tokenizer: .*/empty holds no tokenizer.model and no tokenizer.json; give",
    ):
        convert(arguments(model, tmp_path / "out", "--tokenizer", tmp_path / "empty"))
    with pytest.raises(ConfigError, match="is one file, which holds no tokenizer"):
        convert(arguments(model, tmp_path / "o.ckpt", "--tokenizer", model / "tokenizer.model"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty", "tokenizer.model"]


def test_the_input_is_never_replaced_by_its_conversion(model: Path) -> None:
    before = (model / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="--output_path: .* is the input itself"):
        convert(arguments(model, model / ".." / model.name, "--force"))
    assert (model / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("size", ["abc", "0", "-1GB"])
def test_a_shard_size_that_is_none_names_its_flag(model: Path, tmp_path: Path, size: str) -> None:
    with pytest.raises(ConfigError, match="^--max_shard_size: size .* as in 5GB"):
        convert(arguments(model, tmp_path / "out", f"--max_shard_size={size}"))
    assert not (tmp_path / "out").exists()


# --- places that cannot be written ---------------------------------------------------------------


def test_a_place_that_cannot_be_written_is_told_without_a_hidden_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_writable(tmp_path / "new" / "file")
    assert list((tmp_path / "new").iterdir()) == []

    def touch(path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(CheckpointError) as caught:
        require_writable(tmp_path / "file")
    assert str(caught.value) == (
        f"{tmp_path / 'file'}: cannot write: Read-only file system; "
        "choose a folder on a writable file system"
    )


def test_a_full_disk_under_the_index_tells_the_free_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mindformers.dataset.mindrecord import MindRecordWriter
    from tests.support.mindrecords import write_numbered

    def commit(self, facts) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(MindRecordWriter, "finish", commit)
    with pytest.raises(
        DataError, match=r"rows: cannot write the index: database or disk is full \(\d+ bytes free"
    ):
        write_numbered(tmp_path / "rows", 4)
    assert list(tmp_path.iterdir()) == []
