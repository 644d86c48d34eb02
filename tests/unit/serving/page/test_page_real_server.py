"""The page on the server it is made for: its routes, streams and policy; what the engine says is written here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
from tests.support.serving import counting, running, scripted_service, tiny_tokenizer

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

TOOL = {
    "name": "weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_tokenizer(tmp_path_factory.mktemp("vocabulary"))


def test_a_conversation_with_markdown_figures_and_a_second_turn(
    browser: Chrome, tokenizer: Any
) -> None:
    from tests.support.browser import Page

    service = scripted_service(
        tokenizer, lambda request, index: ["Some **bo", "ld** text", "\n\n- 你好"]
    )
    with running(service) as url:
        page = Page(browser, f"{url}/")
        page.open()
        page.complaints()
        assert page.text(".model") == "tiny"
        page.ask("Hello")
        page.ended()
        assert page.text(".said strong") == "bold"
        assert page.text(".said li") == "你好"
        assert "tokens in" in page.text(".figures")
        page.ask("More")
        page.ended(2)
        assert page.complaints() == []
    first, second = (tokenizer.decode(list(each.prompt)) for each in service.engine.requests)
    assert "Hello" in first
    assert second.index("Hello") < second.index("**bold**") < second.index("More")


def test_tools_are_called_and_their_results_read(browser: Chrome, tokenizer: Any) -> None:
    from tests.support.browser import Page

    answers = iter((["weather\n", '{"city": "Oslo"}'], ["It is sunny."]))
    service = scripted_service(tokenizer, lambda request, index: next(answers))
    with running(service) as url:
        page = Page(browser, f"{url}/")
        page.open()
        page.press("Settings")
        field = next(f for f in page.all("dialog .field") if f.accessible_name == "Tools (JSON)")
        field.send_keys(json.dumps([TOOL]))
        page.press("Close", "dialog")
        page.ask("Weather?")
        page.ended()
        assert page.text(".call h3") == "weather"
        assert page.text(".call pre") == '{\n  "city": "Oslo"\n}'
        page.find(".call textarea").send_keys('{"sky": "clear"}')
        page.press("Send result")
        page.ended(2)
        assert page.text(".from-model:last-child .said") == "It is sunny."
    assert '{"sky": "clear"}' in tokenizer.decode(list(service.engine.requests[1].prompt))


def test_stopping_on_the_page_stops_the_engine(browser: Chrome, tokenizer: Any) -> None:
    from tests.support.browser import Page

    service = scripted_service(tokenizer, lambda request, index: counting())
    with running(service) as url:
        page = Page(browser, f"{url}/")
        page.open()
        page.ask("count")
        page.wait(lambda: "word3" in page.text(".growing .said"))
        page.press("Stop")
        assert service.engine.handles[0].is_cancelled.wait(20)


def test_a_key_opens_the_server_and_the_page_needs_none(browser: Chrome, tokenizer: Any) -> None:
    from tests.support.browser import Page

    service = scripted_service(tokenizer, "welcome", api_keys=("key-1",))
    with running(service) as url:
        page = Page(browser, f"{url}/")
        page.open()
        assert page.text(".state") == "Key needed"
        page.find(".key-asked input").send_keys("key-1")
        page.press("Use key")
        page.wait(lambda: page.text(".state") == "Ready")
        page.ask("q")
        page.ended()
        assert page.text(".from-model .said") == "welcome"


def test_what_the_server_refuses_is_shown_in_its_words(browser: Chrome, tokenizer: Any) -> None:
    from tests.support.browser import Page

    service = scripted_service(tokenizer, "never", room=0)
    with running(service) as url:
        page = Page(browser, f"{url}/")
        page.open()
        page.ask("q")
        page.wait(lambda: page.text(".waiting").startswith("The server is busy. Next try in"))
        page.press("Stop")
        page.ended()
        page.script("arguments[0].value = 'x '.repeat(700)", page.composer)
        page.ask(".")
        assert page.text(".error strong") == "The server refused the request."
        assert "512" in page.text(".error .detail")


def test_the_real_policy_is_the_strict_one(tokenizer: Any) -> None:
    import httpx

    from mindformers.serving import page as module

    folder = Path(module.__file__).parent / "page"
    service = scripted_service(tokenizer, "", api_keys=("k",))
    with running(service) as url, httpx.Client(base_url=url) as client:
        for path in sorted(folder.rglob("*.*")):
            answer = client.get(f"/{path.relative_to(folder).as_posix()}")
            assert answer.status_code == 200, path.name
            assert answer.content == path.read_bytes()
            assert answer.headers["x-content-type-options"] == "nosniff"
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            again = client.get(answer.url, headers={"If-None-Match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
