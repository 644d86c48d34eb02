from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers.guard import run_guarded
from mindformers.tools.dataset_preprocess.glm4 import alpaca_converter
from mindformers.tools.dataset_preprocess.glm4.alpaca_converter import build_parser, main
from tests.support.shared import shared_file

ROWS = [
    {"instruction": "Translate.", "input": "你好", "output": "Hello"},
    {"instruction": "Say hi", "input": "", "output": "hi\nthere"},
    {"instruction": "Say \u2028", "output": "ok 🙂"},
]
LINES = (
    '{"messages": [{"role": "user", "content": "Translate: 你好"}, {"role": "assistant", "content": "Hello"}]}\n'
    '{"messages": [{"role": "user", "content": "Say hi"}, {"role": "assistant", "content": "hi\\nthere"}]}\n'
    '{"messages": [{"role": "user", "content": "Say \u2028"}, {"role": "assistant", "content": "ok 🙂"}]}\n'
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "alpaca.json"
    path.parent.mkdir()
    path.write_text(json.dumps(ROWS, ensure_ascii=False), encoding="utf-8")
    return path


def arguments(source: Path, output: Path, *more: str) -> list[str]:
    return ["--data_path", str(source), "--output_path", str(output), *more]


def test_the_output_is_readable_conversations(source: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "new folder" / "out.jsonl"
    assert run_guarded(main, arguments(source, output)) == 0
    assert output.read_text(encoding="utf-8") == LINES
    shown = capsys.readouterr()
    assert "rows read     3\n  rows written  3\n  dropped rows  0" in shown.out
    assert f"Conversations written to {output}" in shown.out
    assert shown.err == ""


def test_json_lines_are_taken_as_well(source: Path, tmp_path: Path) -> None:
    lines = tmp_path / "alpaca.jsonl"
    lines.write_text("".join(json.dumps(row) + "\r\n" for row in ROWS), encoding="utf-8")
    assert main(arguments(lines, tmp_path / "out.jsonl")) == 0
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == LINES


def test_published_flags_and_defaults_are_kept() -> None:
    parsed = build_parser().parse_args([])
    assert (parsed.data_path, parsed.output_path) == ("alpaca_data.json", "alpaca_glm4_data.jsonl")


def test_an_existing_output_is_refused_with_exit_code_2(
    source: Path, tmp_path: Path, capsys
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("mine")
    assert run_guarded(main, arguments(source, output)) == 2
    assert output.read_text() == "mine"
    shown = capsys.readouterr().err
    assert (
        shown
        == f"error: {output}: the output exists already; add --overwrite to replace it, or choose another name\n"
    )
    assert run_guarded(main, arguments(source, output, "--overwrite")) == 0
    assert output.read_text(encoding="utf-8") == LINES


def test_rows_without_an_answer_are_left_out_counted_and_named(tmp_path: Path, capsys) -> None:
    source = tmp_path / "a.json"
    source.write_text(
        json.dumps([*ROWS, *[{"instruction": "x", "output": ""}] * 5], indent=1), encoding="utf-8"
    )
    assert main(arguments(source, tmp_path / "out.jsonl")) == 0
    shown = capsys.readouterr()
    assert "rows read     8\n  rows written  3\n  dropped rows  5\n    malformed   5" in shown.out
    assert f"dropped (malformed): {source}:16: 'output' is empty; leave the row out\n" in shown.err
    assert "dropped (malformed): and 2 more\n" in shown.err
    assert run_guarded(main, arguments(source, tmp_path / "two.jsonl", "--on_error", "error")) == 2
    assert f"error: {source}:16: 'output' is empty" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "out.jsonl"]


def test_a_file_of_another_form_is_an_error_not_an_empty_file(tmp_path: Path, capsys) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    assert run_guarded(main, arguments(source, tmp_path / "out.jsonl")) == 2
    message = capsys.readouterr().err
    assert (
        f"error: {source}: none of 3 rows can be used; the first one: {source}:1: a row with the keys prompt"
        in message
    )
    assert not (tmp_path / "out.jsonl").exists()


def test_input_and_output_may_not_be_the_same_file(source: Path, capsys) -> None:
    assert run_guarded(main, arguments(source, source, "--overwrite")) == 2
    assert "input and output are the same file" in capsys.readouterr().err
    assert json.loads(source.read_text(encoding="utf-8")) == ROWS


def test_tool_dialogues_keep_calls_and_schemas(tmp_path: Path) -> None:
    source = tmp_path / "a.json"
    source.write_text(json.dumps([{
        "conversations": [
            {"from": "human", "value": "q"}, {"from": "function_call", "value": '{"name": "f", "arguments": {}}'}],
        "tools": '[{"name": "f"}]'}]))  # fmt: skip
    assert main(arguments(source, tmp_path / "out.jsonl")) == 0
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "{}", "metadata": "f"},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }


def test_the_real_file_converts_to_one_line_a_row(tmp_path: Path) -> None:
    source = shared_file("data/alpaca_en_demo.json")
    assert main(arguments(source, tmp_path / "out.jsonl")) == 0
    rows = json.loads(source.read_text(encoding="utf-8"))
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(rows) == 999
    for row, line in zip(rows, lines, strict=True):
        prompt = row["instruction"]
        if row["input"] != "":
            prompt = (prompt[:-1] if prompt[-1] == "." else prompt) + ": " + row["input"]
        assert json.loads(line) == {
            "messages": [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": row["output"]},
            ]
        }


@pytest.mark.parametrize("form", ["path", "module"])
def test_it_runs_as_a_script_and_as_a_module_under_lang_c(
    source: Path, tmp_path: Path, form: str
) -> None:
    name = alpaca_converter.__file__ if form == "path" else alpaca_converter.__name__
    command = [sys.executable, *([] if form == "path" else ["-m"]), name]
    output = tmp_path / "输出.jsonl"
    done = subprocess.run(
        [*command, *arguments(source, output)], capture_output=True, cwd=tmp_path, check=False,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout  # no colours where there is no terminal
    assert output.read_text(encoding="utf-8") == LINES


def test_help_answers_without_loading_the_library() -> None:
    code = (
        "import sys\n"
        "from mindformers.tools.dataset_preprocess.glm4 import alpaca_converter as a, glm4_preprocess as g\n"
        "for tool in (a, g):\n    assert tool.build_parser().format_help()\n"
        "heavy = {'mindspore', 'numpy', 'rich', 'tiktoken', 'pydantic'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_debug_shows_the_traceback(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = arguments(tmp_path / "none.json", tmp_path / "out.jsonl", "--debug")
    assert run_guarded(main, argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "cannot read" in lines[-1]
