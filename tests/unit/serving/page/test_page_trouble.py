"""What the page says and does when the server is away, busy, asks for a key, fails or breaks off."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.scripted_server import Cut, Refusal, ScriptedServer, answer, delta

if TYPE_CHECKING:
    from tests.support.browser import Page


def test_a_server_that_went_away_is_said_and_found_again(
    page: Page, server: ScriptedServer
) -> None:
    server.stop()
    page.ask("q")
    assert page.text(".error strong") == "The server does not answer."
    assert page.text(".state") == "Server away"
    server.script.answers.append(answer("back"))
    server.start_again()
    page.wait(lambda: page.text(".state") == "Ready")
    page.press("Try again")
    page.wait(lambda: page.text(".from-model .said") == "back")


def test_a_server_that_asks_for_a_key_gets_the_one_that_is_typed(
    page: Page, server: ScriptedServer
) -> None:
    server.script.key = "secret-1"
    server.script.answers.append(answer("welcome"))
    page.reload()
    assert page.text(".state") == "Key needed"
    page.find(".key-asked input").send_keys("wrong")
    page.press("Use key")
    page.ask("q")
    assert page.text(".error strong") == "The server asks for another API key."
    assert page.text(".error .detail") == "the API key is not the one that is needed"
    field = page.find(".key-asked input")
    field.clear()
    field.send_keys("secret-1")
    page.press("Use key")
    page.wait(lambda: page.text(".state") == "Ready")
    assert page.all(".key-asked input") == []
    page.press("Try again")
    page.wait(lambda: page.text(".from-model .said") == "welcome")
    assert "secret-1" not in page.script("return JSON.stringify({...localStorage})")
    page.reload()
    page.wait(lambda: page.text(".state") == "Ready")


def test_a_busy_server_is_asked_again_when_it_said(page: Page, server: ScriptedServer) -> None:
    server.script.answers += [
        Refusal(429, "the queue is full", retry_after="0.1"),
        Refusal(503, "starting", retry_after="0"),
        answer("at last"),
    ]
    page.ask("q")
    page.wait(lambda: page.text(".from-model .said") == "at last")
    assert len(server.script.requests) == 3


def test_waiting_for_a_busy_server_can_be_stopped(page: Page, server: ScriptedServer) -> None:
    server.script.answers.append(Refusal(429, "the queue is full", retry_after="60"))
    page.ask("q")
    page.wait(lambda: page.text(".waiting").startswith("The server is busy. Next try in "))
    page.press("Stop")
    assert page.ended().text.splitlines()[0] == "Stopped."
    assert len(server.script.requests) == 1


@pytest.mark.parametrize(
    ("said", "title", "detail"),
    [
        (Refusal(429, "the queue is full"), "The server is busy.", "the queue is full"),
        (Refusal(429, "later", retry_after="900"), "The server is busy.", "later"),
        (Refusal(400, "top_p: wrong"), "The server refused the request.", "top_p: wrong"),
        (Refusal(500, "it broke"), "The server failed.", "it broke"),
        (
            [delta(content="half"), {"error": {"message": "it broke", "type": "server_error"}}],
            "The server failed.",
            "it broke",
        ),
        ([Cut()], "The answer was cut off.", None),
        (answer("no end mark")[:-1], "The answer was cut off.", None),
        ([b"data: {not json\n\n"], "The answer was cut off.", None),
    ],
    ids=["busy", "busy too long", "refused", "failed", "error in the stream", "broken", "no end", "not JSON"],
)  # fmt: skip
def test_errors_are_said_and_can_be_tried_again(
    page: Page, server: ScriptedServer, said: object, title: str, detail: str | None
) -> None:
    server.script.answers += [said, answer("better")]  # type: ignore[list-item]
    page.ask("q")
    assert page.text(".error strong") == title
    assert [node.text for node in page.all(".error .detail")] == ([detail] if detail else [])
    page.press("Try again")
    page.wait(lambda: page.text(".from-model .said") == "better")
    page.ended()
    assert page.all(".error") == []
    has_earlier = (
        isinstance(said, list) and len(said) > 1
    )  # of what failed before its first word nothing is kept
    assert len(page.all(".versions")) == has_earlier


def test_what_came_before_an_answer_broke_off_stays(page: Page, server: ScriptedServer) -> None:
    rest = threading.Event()
    server.script.answers.append([delta(content="half"), rest, Cut()])
    page.ask("q")
    page.wait(lambda: page.text(".growing .said") == "half")
    rest.set()
    assert page.text(".error strong") == "The answer was cut off."
    assert page.text(".from-model .said") == "half"


def test_what_came_before_the_page_was_closed_is_kept(page: Page, server: ScriptedServer) -> None:
    rest = threading.Event()
    server.script.answers.append([delta(content="so far"), rest])
    page.ask("q")
    page.wait(lambda: page.text(".growing .said") == "so far")
    page.reload()
    rest.set()
    page.press("q")
    assert page.text(".from-model .said") == "so far"
    assert page.text(".error strong") == "The answer was cut off."
