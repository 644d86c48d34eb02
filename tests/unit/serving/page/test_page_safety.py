"""Text of a model, a tool or a file never becomes markup, script or a request elsewhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.scripted_server import ScriptedServer, answer, tool_calls

if TYPE_CHECKING:
    from tests.support.browser import Page

HOSTILE = """<script>window.hacked = 1</script>
<img src=x onerror="window.hacked = 1"> <svg onload="window.hacked = 1"></svg>
<iframe srcdoc="<script>1</script>"></iframe>

# <b onmouseover="window.hacked = 1">heading</b>

- [a](javascript:window.hacked=1) [b](JaVaScRiPt:window.hacked=1) [c](java\tscript:window.hacked=1)
- [d](data:text/html,<script>window.hacked=1</script>) [e](&#106;avascript:window.hacked=1) <javascript:window.hacked=1>
- ![f](x" onerror="window.hacked=1) ![g](https://example.invalid/g.png) [h](https://example.invalid/"onclick="window.hacked=1)

| <style>*{display:none}</style> | [i](vbscript:x) |
|--|--|
| <a href="javascript:window.hacked=1">j</a> | `</code><script>window.hacked=1</script>` |

```"><script>window.hacked=1</script>
</code></pre><script>window.hacked = 1</script>
```
> <object data="x"><embed src="x"><form action="/"><input autofocus onfocus="window.hacked=1"></form>
**<math><mtext></math>** [k]( ![l](<x> **open `code [m](n
"""


def attributes(page: Page, css: str) -> list[list[str]]:
    return page.script(
        "return [...document.querySelectorAll(arguments[0])]"
        ".flatMap(node => [...node.attributes].map(({name, value}) => [name, value]))",
        css + ", " + css + " *",
    )


def assert_harmless(page: Page, complaints: int = 0) -> None:
    assert page.script("return window.hacked ?? null") is None
    tags = page.script(
        "return [...new Set([...document.querySelectorAll('main *')].map(n => n.localName))]"
    )
    assert {"script", "img", "iframe", "object", "embed", "style", "math", "base"} & set(
        tags
    ) == set()
    found = attributes(page, "main")
    assert [name for name, _ in found if name.startswith("on")] == []
    links = [value for name, value in found if name in ("href", "src", "action", "data", "srcdoc")]
    assert all(link.startswith(("https://", "http://", "mailto:")) for link in links), links
    assert len(page.complaints()) == complaints


def test_hostile_answers_are_shown_as_text(page: Page, server: ScriptedServer) -> None:
    server.script.answers.append(answer(HOSTILE, pieces=300))
    page.ask("<img src=x onerror=window.hacked=1>")
    text = page.ended().find_element("css selector", ".said").text
    for shown in ("<script>window.hacked = 1</script>", "[a](javascript:window.hacked=1)", "[i](vbscript:x)",
                  '<b onmouseover="window.hacked = 1">heading</b>', "<style>*{display:none}</style>"):  # fmt: skip
        assert shown in text
    assert page.text(".bubble") == "<img src=x onerror=window.hacked=1>"
    assert_harmless(page)
    assert set(server.script.paths) <= {
        "/",
        "/v1/models",
        "/v1/chat/completions",
        *own_files(server),
    }
    page.reload()  # titles, list and thread once more, out of the storage
    page.press("<img src=x onerror=window.hacked=1>")
    assert_harmless(page)


def own_files(server: ScriptedServer) -> list[str]:
    return [
        path
        for path in server.script.paths
        if path.startswith(("/js/", "/css/", "/icon.svg", "/favicon"))
    ]


def test_hostile_calls_and_results_are_shown_as_text(page: Page, server: ScriptedServer) -> None:
    server.script.answers += [
        tool_calls(("<img src=x onerror=window.hacked=1>", json.dumps({"<script>": HOSTILE}))),
        answer("ok"),
    ]
    page.ask("q")
    page.ended()
    page.script("document.querySelector('.call textarea').value = arguments[0]", HOSTILE)
    page.press("Send result")
    page.ended(2)
    assert "<iframe" in page.text(".call")
    assert_harmless(page)


def test_hostile_models_errors_and_files_are_shown_as_text(
    page: Page, server: ScriptedServer
) -> None:
    server.script.models[:] = ["<img src=x onerror=window.hacked=1>", "two"]
    page.reload()
    page.ask("q")  # no answer is left: an error
    page.ended()
    conversation = {
        "id": "m" + "0" * 24,
        "title": HOSTILE,
        "updated": 9e15,
        "leaf": None,
    }
    page.script(
        "localStorage.setItem('mindformers/conversation/' + arguments[0].id, JSON.stringify(arguments[0]))",
        conversation,
    )
    page.reload()
    page.find(".conversation").click()
    assert page.text("h1").startswith("<script>")
    assert_harmless(page, complaints=1)  # of the status 500


def test_the_policy_forbids_markup_of_text_and_requests_elsewhere(
    page: Page, server: ScriptedServer
) -> None:
    blocked = page.driver.execute_async_script("""
        const done = arguments[arguments.length - 1];
        const found = [];
        const attempt = (name, act) => { try { act(); } catch { found.push(name); } };
        attempt('innerHTML', () => { document.createElement('p').innerHTML = '<b>x</b>'; });
        fetch('https://example.invalid/').catch(() => found.push('fetch'));
        setTimeout(() => attempt('eval', () => { (0, eval)('1'); })); // apart from the driver, which may
        const script = document.createElement('img');
        script.onerror = () => { found.push('img'); setTimeout(() => done(found.sort()), 50); };
        script.src = 'https://example.invalid/x.png';
    """)
    assert blocked == ["eval", "fetch", "img", "innerHTML"]
    complaints = page.complaints()
    assert len([text for text in complaints if "Content Security Policy" in text]) >= 3
    assert [text for text in complaints if "ERR_NAME_NOT_RESOLVED" in text] == []


@pytest.mark.parametrize("scheme", ["https://example.invalid/a", "mailto:a@example.invalid"])
def test_links_open_apart_and_say_nothing_of_this_page(
    page: Page, server: ScriptedServer, scheme: str
) -> None:
    server.script.answers.append(answer(f"[x]({scheme})"))
    page.ask("q")
    page.ended()
    assert sorted(attributes(page, ".said a")) == [
        ["href", scheme], ["rel", "noopener noreferrer nofollow"], ["target", "_blank"], ["title", scheme],
    ]  # fmt: skip
