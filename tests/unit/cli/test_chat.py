"""The flags of ``mindformers chat``: which tools they open, and which they refuse."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mindformers.agent.web_pages import WebPages
from mindformers.cli.chat import build_parser, chat_command, open_tools
from mindformers.errors import ConfigError, MindFormersError
from tests.support.vocab import write_tiny_vocab

ROOT = Path(__file__).resolve().parents[3]
WEATHER = str(ROOT / "examples/tiny_chat/weather.py")


def opened(*flags: str) -> list[object]:
    return open_tools(vars(build_parser().parse_args(["model", *flags])))


def test_no_flag_gives_no_tool() -> None:
    assert opened() == []


def test_each_flag_gives_its_tool(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("words", encoding="utf-8")
    tools = opened("--tools", WEATHER, "--python", "--browser", str(tmp_path))
    assert [tool.name for tool in tools] == ["get_weather", "python", "simple_browser"]
    for tool in tools:
        tool.close()


def test_addresses_of_the_web_need_leave(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--browser: http://a.example/ is on the web; add --web"):
        opened("--browser", "http://a.example/")
    (tool,) = opened("--web", "--browser", "http://a.example/")
    (pages,) = tool._sources
    assert isinstance(pages, WebPages)
    assert list(pages.addresses) == ["http://a.example/"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--python_dir", "x"), "belong to --python; add --python"),
        (("--python_read", "x"), "belong to --python; add --python"),
        (("--tools", "none.py"), r"none\.py: no such file"),
        (("--browser", "none"), "none: no such folder"),
        (("--max_tool_rounds", "x"), "invalid int value"),
        (
            ("--tool", WEATHER, "--pythn"),
            "unrecognized arguments: --pythn; did you mean '--python'",
        ),
    ],
)
def test_what_cannot_be_opened_is_one_line(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(*flags)


def test_guesses_are_a_setting_of_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr("mindformers.tasks.chat.chat", lambda _, **given: asked.append(given))
    chat_command(["model", "--prompt_lookup", "7"])
    chat_command(["model"])
    assert asked[0]["prompt_lookup_num_tokens"] == 7
    assert asked[0].keys() - asked[1].keys() == {"prompt_lookup_num_tokens"}
    monkeypatch.undo()
    with pytest.raises(MindFormersError, match="prompt_lookup_num_tokens: found 0; allowed: "):
        chat_command(["/no/such/model", "--prompt_lookup", "0"])


def test_what_tools_hold_is_given_back_when_the_chat_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(MindFormersError):
        chat_command([str(tmp_path / "none"), "--python"])
    assert list(tmp_path.iterdir()) == []


def test_a_script_gets_the_answers_and_the_calls_and_nothing_else(tmp_path: Path) -> None:
    write_tiny_vocab(tmp_path)
    command = [sys.executable, "-m", "tests.support.scripted_chat", str(tmp_path), "chat", "x"]
    done = subprocess.run(
        [*command, "--tools", WEATHER, "--max_tool_rounds", "1"],
        input='one\ncall get_weather {"city": "Rome"}\ncall get_weather {"city": "Oslo"}\n',
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "you said: one",
        'get_weather {"city": "Rome"}',
        '  -> {"sky": "rainy", "celsius": 15}',
        'the tool said {"sky": "rainy", "celsius": 15}',
        'get_weather {"city": "Oslo"}',
        "  -> error: LookupError: no weather is known of Oslo",
        "the tool said error: LookupError: no weather is known of Oslo",
    ]
    wrong = subprocess.run(
        [*command, "--total_seconds", "0"],
        input="",
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "error: total_seconds: found 0.0; allowed: a number above 0\n",
    )
