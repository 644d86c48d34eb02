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
    chat.enter(f"你好 wo{BACKSPACE * 3}们")
    chat.until("you said: 你好们\n")
    assert "tokens/s; prompt " in chat.until("\n")
    chat.until("> ")
    chat.type(CTRL_D)
    assert chat.exit_code() == 0


def test_a_question_of_several_lines(start: Start) -> None:
    chat = start()
    chat.enter('"""first line')
    chat.until("... ")
    chat.type('second"""\r')
    chat.until("you said: first line\nsecond\n")
    chat.enter(f"one{ALT_ENTER}two")
    chat.until("you said: one\ntwo\n")


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(start: Start, tmp_path: Path) -> None:
    chat = start(speed="slowly")
    chat.enter("slow please")
    chat.until("1 2 3 4")
    chat.type(CTRL_C)
    chat.until("stopped\n")
    chat.enter("and now")
    chat.until("you said: and now\n")
    chat.enter(f"/save {tmp_path / 'saved.json'}")
    chat.until("4 messages written to")
    messages = json.loads((tmp_path / "saved.json").read_text(encoding="utf-8"))["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert messages[1]["content"].startswith("0 1 2 3 4")
    assert len(messages[1]["content"]) < 5000


def test_ctrl_c_at_the_prompt_drops_the_line_and_stays(start: Start) -> None:
    chat = start()
    chat.until("> ")
    chat.type("half a quest")
    chat.until("half a quest")
    chat.interrupt("(Ctrl-D leaves)\n")
    chat.enter("whole")
    chat.until("you said: whole\n")
    chat.enter("/exit")
    assert chat.exit_code() == 0


def test_ctrl_c_ends_a_tool_that_runs(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TOOLS, encoding="utf-8")
    chat = start("--tools", str(tmp_path / "mine.py"))
    chat.enter('call add {"a": 2, "b": 3}')
    chat.until('add {"a": 2, "b": 3}\n  -> 5\nthe tool said 5\n')
    chat.enter("call wait {}")
    chat.until("waiting\n")
    chat.type(CTRL_C)
    chat.until("error: the call was ended: stopped by the user\n")
    chat.enter("go on")
    chat.until("you said: go on\n")


def test_an_answer_cannot_steer_the_terminal_and_a_cut_is_told(start: Start) -> None:
    chat = start()
    chat.enter("raw")
    chat.until("␛[2Jhidden␇\n")
    chat.enter("cut")
    chat.until("never done\n")
    chat.until("cut at ")
    chat.until("/set max_new_tokens ")


def test_commands_change_the_conversation(start: Start, tmp_path: Path) -> None:
    chat = start("--seed", "3")
    chat.enter("one")
    chat.until("you said: one\n")
    chat.enter("/regenerate")
    chat.until("you said: one\n")
    chat.enter("/undo")
    chat.until("taken back: one\n")
    chat.enter("/set temperature 0.5")
    chat.until("temperature = 0.5\nhas an effect after: /set do_sample true\n")
    chat.enter("/set temperature -1")
    chat.until("error: temperature: found -1")
    chat.enter("/set tempreature 1")
    chat.until("did you mean 'temperature'")
    chat.enter("/load nowhere.json")
    chat.until("error: nowhere.json: cannot be read")
    chat.enter("/stats")
    chat.until("answers          2\n")
    chat.enter("/stat")
    chat.until("no command is called '/stat'; did you mean '/stats'")
    chat.enter("/help")
    chat.until("/save FILE")


def test_colours_are_left_out_where_nobody_wants_them(start: Start) -> None:
    chat = start(NO_COLOR="1", TERM="dumb")
    chat.enter("plain")
    chat.until("you said: plain\n")
    assert "\x1b[3" not in chat.raw.decode()
