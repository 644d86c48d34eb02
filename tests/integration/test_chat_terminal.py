"""The chat as one uses it: at a terminal, with keys."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.terminal import Terminal
from tests.support.vocab import write_tiny_vocab

ROOT = Path(__file__).resolve().parents[2]
CTRL_C, CTRL_D, ALT_ENTER, BACKSPACE = "\x03", "\x04", "\x1b\r", "\x7f"
TOOLS = '''import time

def add(a: int, b: int) -> int:
    """Add."""
    return a + b

def wait() -> None:
    """Wait."""
    print("waiting", flush=True)
    while True:
        time.sleep(0.001)
'''

Start = Callable[..., Terminal]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    write_tiny_vocab(tmp_path)
    started: list[Terminal] = []

    def begin(*flags: str, speed: str = "fast", **variables: str) -> Terminal:
        command = [
            sys.executable,
            "-m",
            "tests.support.scripted_chat",
            str(tmp_path),
            "chat",
            speed,
        ]
        environment = {"PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", **variables}
        started.append(Terminal([*command, *flags], ROOT, environment))
        started[-1].until("Ctrl-C stops an answer\n")
        return started[-1]

    yield begin
    for terminal in started:
        terminal.close()


def test_questions_are_edited_and_answered_and_ctrl_d_leaves(start: Start) -> None:
    chat = start()
    chat.type(f"你好 wo{BACKSPACE * 3}们\r")
    chat.until("you said: 你好们\n")
    assert "tokens/s; prompt " in chat.until("\n")
    chat.type(CTRL_D)
    assert chat.exit_code() == 0


def test_a_question_of_several_lines(start: Start) -> None:
    chat = start()
    chat.type('"""first line\r')
    chat.until("... ")
    chat.type('second"""\r')
    chat.until("you said: first line\nsecond\n")
    chat.type(f"one{ALT_ENTER}two\r")
    chat.until("you said: one\ntwo\n")


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(start: Start, tmp_path: Path) -> None:
    chat = start(speed="slowly")
    chat.type("slow please\r")
    chat.until("1 2 3 4")
    chat.type(CTRL_C)
    chat.until("stopped\n")
    chat.type("and now\r")
    chat.until("you said: and now\n")
    chat.type(f"/save {tmp_path / 'saved.json'}\r")
    chat.until("4 messages written to")
    messages = json.loads((tmp_path / "saved.json").read_text(encoding="utf-8"))["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert messages[1]["content"].startswith("0 1 2 3 4")
    assert len(messages[1]["content"]) < 5000


def test_ctrl_c_at_the_prompt_drops_the_line_and_stays(start: Start) -> None:
    chat = start()
    chat.type("half a quest")
    chat.until("half a quest")
    chat.type(CTRL_C)
    chat.until("(Ctrl-D leaves)\n")
    chat.type("whole\r")
    chat.until("you said: whole\n")
    chat.type("/exit\r")
    assert chat.exit_code() == 0


def test_ctrl_c_ends_a_tool_that_runs(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TOOLS, encoding="utf-8")
    chat = start("--tools", str(tmp_path / "mine.py"))
    chat.type('call add {"a": 2, "b": 3}\r')
    chat.until('add {"a": 2, "b": 3}\n  -> 5\nthe tool said 5\n')
    chat.type("call wait {}\r")
    chat.until("waiting\n")
    chat.type(CTRL_C)
    chat.until("error: the call was ended: stopped by the user\n")
    chat.type("go on\r")
    chat.until("you said: go on\n")


def test_an_answer_cannot_steer_the_terminal_and_a_cut_is_told(start: Start) -> None:
    chat = start()
    chat.type("raw\r")
    chat.until("␛[2Jhidden␇\n")
    chat.type("cut\r")
    chat.until("never done\n")
    chat.until("cut at ")
    chat.until("/set max_new_tokens ")


def test_commands_change_the_conversation(start: Start, tmp_path: Path) -> None:
    chat = start("--seed", "3")
    chat.type("one\r")
    chat.until("you said: one\n")
    chat.type("/regenerate\r")
    chat.until("you said: one\n")
    chat.type("/undo\r")
    chat.until("taken back: one\n")
    chat.type("/set temperature 0.5\r")
    chat.until("temperature = 0.5\nhas an effect after: /set do_sample true\n")
    chat.type("/set temperature -1\r")
    chat.until("error: temperature: found -1")
    chat.type("/set tempreature 1\r")
    chat.until("did you mean 'temperature'")
    chat.type("/load nowhere.json\r")
    chat.until("error: nowhere.json: cannot be read")
    chat.type("/stats\r")
    chat.until("answers          2\n")
    chat.type("/help\r")
    chat.until("/save FILE")


def test_colours_are_left_out_where_nobody_wants_them(start: Start) -> None:
    chat = start(NO_COLOR="1", TERM="dumb")
    chat.type("plain\r")
    chat.until("you said: plain\n")
    assert "\x1b[3" not in chat._bytes.decode()
