"""Talking on the page: streaming, keys, stopping, answering anew, editing, parameters, tools."""

from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.scripted_server import ScriptedServer, UntilGone, answer, delta, tool_calls

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver import Keys

if TYPE_CHECKING:
    from tests.support.browser import Page

SENT = {"stream": True, "stream_options": {"include_usage": True}, "model": "tiny"}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def model(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_an_answer_is_shown_while_it_comes(page: Page, server: ScriptedServer) -> None:
    rest = threading.Event()
    steps = answer("Hello there")
    server.script.answers.append([*steps[:2], rest, *steps[2:]])
    page.ask("Hi")
    page.wait(lambda: page.text(".growing .said") == "Hel")
    assert page.find(".messages").get_attribute("aria-busy") == "true"
    rest.set()
    assert page.ended().find_element("css selector", ".said").text == "Hello there"
    assert page.find(".messages").get_attribute("aria-busy") == "false"
    assert page.text(".bubble") == "Hi"
    assert server.script.requests == [{**SENT, "messages": [user("Hi")]}]
    figures = page.text(".from-model .figures").split(" · ")
    assert re.fullmatch(r"5 tokens in \d+\.\d\d s", figures[0])
    assert re.fullmatch(r"first after \d+\.\d\d s", figures[-2])
    assert figures[-1] == "prompt 12 (8 cached)"
    assert page.complaints() == []


def test_what_was_said_before_goes_with_the_next_question(
    page: Page, server: ScriptedServer
) -> None:
    server.script.answers += [answer("one"), answer("two")]
    page.ask("first")
    page.ended()
    page.ask("second")
    page.ended(2)
    assert server.script.requests[1]["messages"] == [user("first"), model("one"), user("second")]


def test_shift_enter_begins_a_line_and_blank_messages_are_not_sent(
    page: Page, server: ScriptedServer
) -> None:
    page.composer.send_keys("  ", Keys.ENTER)
    assert not page.button("Send").is_enabled()
    server.script.answers.append(answer("ok"))
    page.composer.send_keys("one", Keys.SHIFT + Keys.ENTER + Keys.NULL, "two", Keys.ENTER)
    page.ended()
    assert server.script.requests[0]["messages"] == [user("one\ntwo")]
    assert page.composer.get_property("value") == ""


def test_enter_that_takes_a_choice_of_an_input_method_does_not_send(
    page: Page, server: ScriptedServer
) -> None:
    page.composer.send_keys("ni")
    page.script(
        "arguments[0].dispatchEvent(new KeyboardEvent('keydown',"
        " {key: 'Enter', isComposing: true, bubbles: true, cancelable: true}))",
        page.composer,
    )
    assert page.composer.get_property("value") == "ni"
    assert server.script.requests == []


@pytest.mark.parametrize("by", ["escape", "button"])
def test_an_answer_can_be_stopped(page: Page, server: ScriptedServer, by: str) -> None:
    server.script.answers.append([delta(content="one two"), UntilGone()])
    page.ask("count")
    page.wait(lambda: page.text(".growing .said") == "one two")
    if by == "escape":
        page.composer.send_keys(Keys.ESCAPE)
    else:
        page.press("Stop")
    assert page.ended().text.splitlines()[:2] == ["one two", "Stopped."]
    assert server.script.reader_gone.wait(20)
    server.script.answers.append(answer("done"))
    page.ask("go on")
    page.ended(2)
    assert server.script.requests[1]["messages"] == [
        user("count"),
        model("one two"),
        user("go on"),
    ]


def test_an_answer_made_anew_stands_beside_the_first(page: Page, server: ScriptedServer) -> None:
    server.script.answers += [answer("first"), answer("other")]
    page.ask("q")
    page.ended()
    page.press("Answer again")
    page.wait(lambda: page.text(".from-model .said") == "other")
    page.ended()
    assert server.script.requests[0] == server.script.requests[1]
    assert page.text(".from-model .versions") == "2/2"
    page.press("Earlier version")
    assert page.text(".from-model .said") == "first"
    assert not page.button("Earlier version").is_enabled()
    page.reload()
    page.press("q")
    assert page.text(".from-model .said") == "first"


def test_a_question_can_be_edited(page: Page, server: ScriptedServer) -> None:
    server.script.answers += [answer("a"), answer("b"), answer("c")]
    page.ask("one")
    page.ended()
    page.ask("two")
    page.ended(2)
    page.press("Edit", ".from-user:first-child")
    area = page.find(".editor textarea")
    assert area.get_property("value") == "one"
    area.send_keys(" more", Keys.ESCAPE)
    assert page.text(".bubble") == "one"
    page.press("Edit", ".from-user:first-child")
    page.find(".editor textarea").send_keys(" more", Keys.ENTER)
    page.wait(lambda: page.text(".from-model .said") == "c")
    page.ended()
    assert server.script.requests[2]["messages"] == [user("one more")]
    page.press("Earlier version")
    assert [node.text for node in page.all(".said")] == ["a", "b"]


def test_messages_and_code_are_copied_as_they_were_written(
    page: Page, server: ScriptedServer
) -> None:
    server.script.answers.append(answer("So **bold**:\n\n```py\n\tx = 1\n```"))
    page.ask("q")
    page.ended()
    for label, within, text in [
        ("Copy code", ".code", "\tx = 1"),
        ("Copy", ".from-model .foot", "So **bold**:\n\n```py\n\tx = 1\n```"),
        ("Copy", ".from-user", "q"),
    ]:
        page.press(label, within)
        page.button("Copied", within)
        page.composer.clear()
        page.composer.send_keys(Keys.CONTROL + "v" + Keys.NULL)
        assert page.composer.get_property("value") == text


def test_parameters_are_sent_when_they_are_set(page: Page, server: ScriptedServer) -> None:
    tools = [{"name": "f", "description": "d", "parameters": {"type": "object"}}]
    values = {
        "System prompt": "Be brief.",
        "Temperature": "0.5",
        "Top p": "0.9",
        "Most tokens": "7",
        "Seed": "3",
        "Tools (JSON)": json.dumps(tools),
    }
    page.press("Settings")
    fields = {field.accessible_name: field for field in page.all("dialog .field")}
    for name, value in values.items():
        fields[name].send_keys(value)
    page.press("Close", "dialog")
    server.script.answers += [answer("ok"), answer("ok")]
    page.ask("q")
    page.ended()
    expected: dict[str, Any] = {
        **SENT,
        "messages": [{"role": "system", "content": "Be brief."}, user("q")],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "seed": 3,
        "tools": [{"type": "function", "function": tools[0]}],
    }
    assert server.script.requests == [expected]
    page.reload()
    page.ask("q")  # a new conversation has the parameters of the one before
    page.ended()
    assert server.script.requests[1] == expected


def test_questions_can_be_asked_alone(page: Page, server: ScriptedServer) -> None:
    server.script.answers += [answer("one"), answer("two")]
    page.ask("first")
    page.ended()
    page.press("Settings")
    page.find("dialog .check").click()
    page.press("Close", "dialog")
    page.ask("second")
    page.ended(2)
    assert server.script.requests[1]["messages"] == [user("second")]


def test_a_parameter_that_is_wrong_is_shown_and_nothing_is_sent(
    page: Page, server: ScriptedServer
) -> None:
    page.press("Settings")
    temperature = next(f for f in page.all("dialog .field") if f.accessible_name == "Temperature")
    temperature.send_keys("hot")
    assert page.text(".fault:not(:empty)") == "A number from 0 to 2."
    page.press("Close", "dialog")
    page.ask("q")
    assert page.wait(lambda: page.driver.switch_to.active_element.accessible_name) == "Temperature"
    assert page.driver.switch_to.active_element.get_attribute("aria-invalid") == "true"
    assert server.script.requests == []


def test_calls_of_tools_take_the_results_that_are_typed(page: Page, server: ScriptedServer) -> None:
    server.script.answers += [
        tool_calls(("weather", '{"city":"北京"}'), ("time", "{}")),
        answer("sunny"),
    ]
    page.ask("q")
    page.ended()
    cards = page.all(".call")
    assert [card.accessible_name for card in cards] == ["Calls weather", "Calls time"]
    assert cards[0].find_element("css selector", "pre").text == '{\n  "city": "北京"\n}'
    page.find(".call textarea").send_keys('{"sky":"clear"}')
    page.press("Send results")
    assert page.ended(2).find_element("css selector", ".said").text == "sunny"
    assert [node.text for node in page.all(".call:first-child pre")] == [
        '{\n  "city": "北京"\n}',
        '{\n  "sky": "clear"\n}',
    ]
    assert page.text(".call:nth-child(2) .ending") == "Skipped: the tool was not run."
    assert page.all(".call textarea") == []
    called = [
        {
            "id": f"call_{name}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for name, arguments in (("weather", '{"city":"北京"}'), ("time", "{}"))
    ]
    assert server.script.requests[1]["messages"] == [
        user("q"),
        {"role": "assistant", "content": None, "tool_calls": called},
        {"role": "tool", "tool_call_id": "call_weather", "content": '{"sky":"clear"}'},
        {"role": "tool", "tool_call_id": "call_time", "content": "The tool was not run."},
    ]


@pytest.mark.parametrize("by", ["button", "question"])
def test_calls_of_tools_can_be_skipped(page: Page, server: ScriptedServer, by: str) -> None:
    server.script.answers += [tool_calls(("f", "{}")), answer("well")]
    page.ask("q")
    page.ended()
    if by == "button":
        page.press("Skip")
    else:
        page.ask("never mind")
    page.ended(2)
    skipped = {"role": "tool", "tool_call_id": "call_f", "content": "The tool was not run."}
    rest = server.script.requests[1]["messages"][2:]
    assert rest == ([skipped] if by == "button" else [skipped, user("never mind")])


def test_an_answer_goes_on_while_another_conversation_is_open(
    page: Page, server: ScriptedServer
) -> None:
    rest = threading.Event()
    server.script.answers += [[delta(content="slow"), rest, *answer(" end")], answer("quick")]
    page.ask("one")
    page.wait(lambda: page.text(".growing .said") == "slow")
    page.press("New chat")
    page.ask("two")
    assert page.ended().find_element("css selector", ".said").text == "quick"
    assert page.find(".row .pulse").accessible_name == "being answered"
    rest.set()
    page.wait(lambda: not page.all(".row .pulse"))
    page.press("one")
    assert page.text(".from-model .said") == "slow end"


def test_several_models_can_be_chosen_from(page: Page, server: ScriptedServer) -> None:
    server.script.models += ["other"]
    server.script.answers.append(answer("ok"))
    page.reload()
    select = page.find(".model select")
    assert select.accessible_name == "Model"
    select.send_keys("other")
    page.ask("q")
    page.ended()
    assert server.script.requests[0]["model"] == "other"


def test_an_answer_that_reached_the_limit_says_so(page: Page, server: ScriptedServer) -> None:
    server.script.answers.append(answer("as far as", finish="length"))
    page.ask("q")
    assert page.ended().text.splitlines()[:2] == ["as far as", "Stopped at the token limit."]


def test_a_selection_stays_while_the_answer_grows(page: Page, server: ScriptedServer) -> None:
    rest = threading.Event()
    server.script.answers.append(
        [delta(content="first paragraph\n\nsec"), rest, *answer("ond paragraph")]
    )
    page.ask("q")
    page.wait(lambda: len(page.all(".growing p")) == 2)
    page.script("getSelection().selectAllChildren(document.querySelector('.growing p'))")
    rest.set()
    page.ended()
    assert page.script("return getSelection().toString()") == "first paragraph"


def test_a_thought_is_shown_while_it_is_written_and_folded_for_the_answer(
    page: Page, server: ScriptedServer
) -> None:
    rest, seen = threading.Event(), threading.Event()
    steps = [delta(content="<think>Two and"), rest, delta(content=" two.</think>\n\nFour"), seen]
    server.script.answers.append([*steps, *answer(".")])
    page.ask("2+2?")
    page.wait(lambda: page.text(".growing .thought[open] .markdown") == "Two and")
    rest.set()
    page.wait(lambda: page.text(".growing .said") == "Four")
    assert page.all(".thought[open]") == []
    seen.set()
    page.ended()
    page.find(".thought summary").click()
    assert page.text(".thought .markdown") == "Two and two."
    page.press("Copy", ".from-model .foot")
    page.composer.send_keys(Keys.CONTROL + "v" + Keys.NULL)
    assert page.composer.get_property("value") == "Four."
