"""Conversations that are kept: opened, renamed, deleted and put back, exported and imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.scripted_server import ScriptedServer, answer

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver import Keys

if TYPE_CHECKING:
    from tests.support.browser import Page


@pytest.fixture
def two(page: Page, server: ScriptedServer) -> Page:
    """A page with two conversations; the second is open."""
    server.script.answers += [answer("a1"), answer("a2")]
    for question in ("first question", "second question"):
        page.press("New chat")
        page.ask(question)
        page.ended()
    return page


def titles(page: Page) -> list[str]:
    return [node.text for node in page.all(".conversation")]


def test_conversations_are_there_after_a_reload(two: Page) -> None:
    two.reload()
    assert titles(two) == ["second question", "first question"]
    two.press("first question")
    assert [node.text for node in two.all(".bubble, .said")] == ["first question", "a1"]
    assert two.text("h1") == "first question"
    assert two.driver.title == "first question · MindFormers"
    assert two.find(".conversation[aria-current]").text == "first question"


def test_a_conversation_can_be_renamed(two: Page) -> None:
    two.script("document.querySelector('.row:last-child').classList.add('current')")
    two.press("Rename “first question”")
    field = two.find(".row input")
    assert field.get_property("value") == "first question"
    field.send_keys("dropped", Keys.ESCAPE)
    assert titles(two) == ["second question", "first question"]
    two.press("Rename “first question”")
    two.find(".row input").send_keys("mine", Keys.ENTER)
    two.wait(lambda: titles(two) == ["second question", "mine"])
    two.reload()
    assert titles(two) == ["second question", "mine"]


def test_a_conversation_that_was_deleted_can_be_put_back(two: Page) -> None:
    two.press("Delete “second question”")
    assert titles(two) == ["first question"]
    assert two.text("h1") == "New chat"
    assert two.text(".notice span") == "Deleted “second question”."
    two.press("Undo")
    assert titles(two) == ["second question", "first question"]
    two.press("Delete “second question”")
    two.reload()
    assert titles(two) == ["first question"]


def test_what_is_exported_can_be_imported(two: Page, tmp_path: Path) -> None:
    two.press("Export all")
    folder = Path(two.driver.capabilities["chrome"]["userDataDir"]).parent
    file = folder / "conversations.json"
    two.wait(file.exists)
    exported = json.loads(file.read_text(encoding="utf-8"))
    assert [len(each["messages"]) for each in exported["conversations"]] == [2, 2]
    two.script("localStorage.clear()")
    two.reload()
    assert titles(two) == []
    two.script("HTMLInputElement.prototype.click = () => {}")  # no window for choosing a file
    two.find("input[type=file]").send_keys(str(file))
    two.wait(lambda: titles(two) == ["second question", "first question"])
    assert two.text(".notice span") == "Imported 2 conversations."
    two.press("first question")
    assert two.text(".from-model .said") == "a1"
    file.unlink()
    other = tmp_path / "other.json"
    for text, said in [("{", "not JSON"), ('{"a":1}', "not exported here")]:
        other.write_text(text, encoding="utf-8")
        two.find("input[type=file]").send_keys(str(other))
        two.wait(lambda said=said: said in two.text(".notice span"))


def test_one_conversation_can_be_exported(two: Page) -> None:
    two.press("Export “second question”")
    folder = Path(two.driver.capabilities["chrome"]["userDataDir"]).parent
    file = folder / "second-question.json"
    two.wait(file.exists)
    exported = json.loads(file.read_text(encoding="utf-8"))
    said = [each["content"] for each in exported["conversations"][0]["messages"].values()]
    assert said == ["second question", "a2"]
    file.unlink()


def test_a_full_storage_is_said_and_the_conversation_goes_on(
    page: Page, server: ScriptedServer
) -> None:
    page.script("localStorage.setItem('other', 'x'.repeat(5 * 1024 * 1024 - 300))")
    server.script.answers.append(answer("still here " * 40))
    page.ask("q")
    page.ended()
    assert "no room" in page.text(".notice span")
    assert page.text(".from-model .said").startswith("still here")


def test_another_tab_sees_what_changed(two: Page, server: ScriptedServer) -> None:
    first = two.driver.current_window_handle
    two.driver.switch_to.new_window("tab")
    try:
        two.open()
        server.script.answers += [answer("a3"), answer("a4")]
        two.ask("third question")
        two.ended()
        two.press("second question")
        two.press("Answer again")
        two.wait(lambda: two.text(".from-model .said") == "a4")
        two.ended()
        two.driver.close()
    finally:
        two.driver.switch_to.window(first)
    two.wait(lambda: titles(two) == ["second question", "third question", "first question"])
    two.wait(lambda: two.text(".from-model .said") == "a4")
    assert two.text(".versions") == "2/2"


def test_figures_tell_how_quick_an_answer_was(two: Page) -> None:
    two.script("""
        const key = Object.keys(localStorage).find(key => localStorage[key].includes('second'));
        const conversation = JSON.parse(localStorage[key]);
        Object.assign(Object.values(conversation.messages)[1],
          {first: 200, took: 2200, usage: {prompt: 30, cached: 0, completion: 41}});
        localStorage[key] = JSON.stringify(conversation);""")
    two.reload()
    two.press("second question")
    figures = "41 tokens in 2.20 s · 20 tokens/s · first after 0.20 s · prompt 30"
    assert two.text(".figures") == figures
