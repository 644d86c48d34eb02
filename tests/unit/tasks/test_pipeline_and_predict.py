"""Pipeline, prompts from files, the terminal chat."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers import AutoModel, pipeline
from mindformers.errors import ConfigError, DataError
from mindformers.ops.native.library import is_native
from mindformers.tasks.chat import chat
from mindformers.tasks.predict import read_prompts
from tests.support.model_dir import write_model_dir


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mindformers.parallel.runtime import start_runtime

    start_runtime(device_target="CPU", mode=1)
    return write_model_dir(tmp_path_factory.mktemp("model"))


def test_a_plain_text_is_continued_and_messages_are_answered(folder: Path) -> None:
    run = pipeline("text_generation", str(folder), max_new_tokens=6)
    (plain,) = run("hello world")
    assert plain["text_generation_text"][0].startswith("hello world")
    (answer,) = run([{"role": "user", "content": "hello world"}])
    assert not answer["text_generation_text"][0].startswith("hello world")
    assert run("hello world", apply_chat_template=True) == [answer]


@pytest.mark.skipif(not is_native(), reason="the portable form computes with MindSpore")
def test_a_pipeline_of_a_directory_answers_without_loading_mindspore(folder: Path) -> None:
    code = (
        "import sys; from mindformers import pipeline; "
        f"run = pipeline('text_generation', {str(folder)!r}, max_new_tokens=3); "
        "print(len(run('hello world')), 'mindspore' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


def test_a_pipeline_answers_as_the_network_it_is_given(folder: Path) -> None:
    settings = {"tokenizer": str(folder), "max_new_tokens": 6}
    named = pipeline("text_generation", str(folder), **settings)
    given = pipeline("text_generation", AutoModel.from_pretrained(folder), **settings)
    assert named("hello world") == given("hello world")


def test_batches_give_the_same_answers_in_the_same_order(folder: Path) -> None:
    run = pipeline("text_generation", str(folder), max_new_tokens=6)
    texts = ["one", "two and more", "三", "four"]
    assert run(texts, batch_size=3) == [run(text)[0] for text in texts]


def test_a_stop_string_is_not_part_of_the_answer(folder: Path) -> None:
    run = pipeline("text_generation", str(folder), max_new_tokens=24)
    ((whole, _),) = run.run("hello", apply_chat_template=True)
    stop = whole[2:4]
    ((cut, reason),) = run.run("hello", apply_chat_template=True, stop_strings=[stop])
    assert (cut, reason) == (whole[: whole.index(stop)], "stop_string")


def test_what_is_missing_is_said(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no task is called 'text_generatoin'.*did you mean 'text_generation'"
    ):
        pipeline("text_generatoin", str(folder))
    with pytest.raises(ConfigError, match="no model was given"):
        pipeline("text_generation")
    with pytest.raises(ConfigError, match="no tokenizer was given"):
        pipeline("text_generation", object())


def test_prompts_come_from_texts_and_files(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeff第一\\n行\n\nsecond\n", encoding="utf-8")
    assert read_prompts(["zero", str(path)]) == ["zero", "第一\n行", "second"]
    assert read_prompts("just text") == ["just text"]


@pytest.mark.parametrize("nothing", ["", [], [""]])
def test_no_prompt_at_all_is_refused(nothing) -> None:
    with pytest.raises(DataError, match="nothing to answer"):
        read_prompts(nothing)


def test_a_prompt_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        read_prompts(str(path))


def test_chat_answers_every_line_and_obeys_commands(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = io.StringIO("hello\n\n/reset\n/system be brief\n/what\nhello\n/exit\nnever read\n")
    assert chat(folder, source=lines, max_new_tokens=4) == 2
    shown = capsys.readouterr().out
    assert "no command is called '/what'" in shown
    assert not shown.startswith("\n")


def test_without_history_every_question_stands_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat(folder, source=io.StringIO("hello\n"), max_new_tokens=8)
    once = capsys.readouterr().out
    chat(folder, source=io.StringIO("hello\nhello\n"), keep_history=False, max_new_tokens=8)
    assert capsys.readouterr().out == once + once
    chat(folder, source=io.StringIO("hello\nhello\n"), max_new_tokens=8)
    assert capsys.readouterr().out.startswith(once)
