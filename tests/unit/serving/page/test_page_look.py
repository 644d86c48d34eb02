"""Themes, languages, widths, and what those need who do not see the page or use no mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.scripted_server import ScriptedServer, answer, tool_calls

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver import ActionChains, Keys

if TYPE_CHECKING:
    from tests.support.browser import Page

RICH = """# T

text `code` [link](https://example.invalid)

> quote

```py
return "a", 1  # b
```

| a |
|--|
| b |

- [x] done"""

# WCAG 2.2: relative luminance, and the contrast of each text with what lies behind it.
CONTRASTS = """
const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const ground = (node) => {
  for (; node; node = node.parentElement) {
    const colour = rgba(getComputedStyle(node).backgroundColor);
    if (colour[3] === 255) return colour;
  }
  return rgba(getComputedStyle(document.documentElement).backgroundColor);
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let text; (text = walker.nextNode());) {
  const node = text.parentElement;
  const isSeen = node.checkVisibility({opacityProperty: true, visibilityProperty: true});
  if (!text.data.trim() || !isSeen || node.closest(':disabled')) continue;
  const [one, other] = [light(rgba(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => b - a);
  found.push([text.data.trim().slice(0, 40), (one + .05) / (other + .05)]);
}
return found;
"""


@pytest.fixture
def full(page: Page, server: ScriptedServer) -> Page:
    """A page with one of everything: an answer, a call that waits, an error."""
    server.script.answers += [answer(RICH), tool_calls(("f", "{}"))]
    page.ask("rich")
    page.ended()
    page.press("Answer again")
    page.wait(lambda: page.all(".call"))
    page.ended()
    page.ask("fails")
    page.ended(2)
    page.press("Earlier version")
    return page


def background(page: Page) -> str:
    return page.script("return getComputedStyle(document.documentElement).backgroundColor")


def choose(page: Page, label: str, option: str) -> None:
    page.press("Settings") if not page.all("dialog[open]") else None
    select = next(s for s in page.all("dialog select") if s.accessible_name == label)
    next(o for o in select.find_elements("css selector", "option") if o.text == option).click()


def test_the_theme_follows_the_system_until_one_is_chosen(page: Page) -> None:
    light = background(page)
    page.emulate(prefers_color_scheme="dark")
    dark = background(page)
    assert light != dark
    choose(page, "Theme", "Light")
    assert background(page) == light
    page.reload()
    assert background(page) == light
    page.emulate(prefers_color_scheme="light")
    choose(page, "Theme", "Dark")
    assert background(page) == dark
    choose(page, "Theme", "System")
    assert background(page) == light


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_has_contrast_enough(full: Page, theme: str) -> None:
    full.emulate(prefers_color_scheme=theme)
    weak: list[Any] = []
    seen = full.script(CONTRASTS)
    full.press("Later version")
    seen += full.script(CONTRASTS)
    full.press("Settings")
    seen += full.script(CONTRASTS)
    weak = [each for each in seen if each[1] < 4.5]
    assert len(seen) > 60
    assert weak == []


def test_the_language_can_be_changed_and_stays(full: Page) -> None:
    choose(full, "Language", "中文")
    assert full.text("dialog h2") == "设置"
    assert full.driver.switch_to.active_element.accessible_name == "语言"
    full.press("关闭", "dialog")
    assert full.composer.get_attribute("placeholder") == "输入消息"
    assert full.script("return document.documentElement.lang") == "zh-CN"
    full.press("重新回答", ".from-model:nth-child(2)")
    full.wait(lambda: full.text(".error strong") == "服务器出错。")
    full.reload()
    assert full.text(".state") == "就绪"


def test_the_language_is_that_of_the_browser(page: Page) -> None:
    page.driver.execute_cdp_cmd(
        "Emulation.setUserAgentOverride",
        {"userAgent": page.script("return navigator.userAgent"), "acceptLanguage": "zh-CN,zh"},
    )
    try:
        page.reload()
        assert page.text(".new-chat") == "新对话"
    finally:
        page.driver.execute_cdp_cmd(
            "Emulation.setUserAgentOverride",
            {"userAgent": page.script("return navigator.userAgent"), "acceptLanguage": "en-US"},
        )


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(full: Page, width: int) -> None:
    full.resize(width, 700, is_phone=width < 500)
    assert full.script("return document.documentElement.scrollWidth") == width
    wide = full.script(
        "return [...document.querySelectorAll('main *')].filter(n => n.checkVisibility({visibilityProperty: true}) && "
        "n.getBoundingClientRect().right > innerWidth + 1 && !n.closest('pre, .table')).map(n => n.className)"
    )
    assert wide == []
    full.press("Settings")
    sheet = full.find("dialog").rect
    assert sheet["x"] + sheet["width"] == width
    assert full.script("return document.querySelector('dialog').scrollWidth") <= sheet["width"]


def test_on_a_phone_the_list_of_conversations_opens_over_the_thread(full: Page) -> None:
    full.resize(390, 800, is_phone=True)
    full.wait(lambda: not full.find(".new-chat").is_displayed())
    full.press("Show conversations")
    full.wait(lambda: full.find(".new-chat").is_displayed())
    assert full.script("return document.querySelector('main').inert")
    assert full.driver.switch_to.active_element.text == "New chat"
    full.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    full.wait(lambda: not full.find(".new-chat").is_displayed())
    assert full.driver.switch_to.active_element.accessible_name == "Show conversations"
    full.press("Show conversations")
    full.press("New chat")
    full.wait(lambda: not full.find(".new-chat").is_displayed())
    assert full.text(".greeting h2") == "What would you like to know?"


def test_everything_that_can_be_used_has_a_name(full: Page) -> None:
    nodes = full.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    full.press("Settings")
    nodes += full.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    used = {
        "button",
        "textbox",
        "combobox",
        "link",
        "checkbox",
        "navigation",
        "dialog",
        "log",
        "article",
        "region",
    }
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored") and node.get("role", {}).get("value") in used
    ]
    assert {"button", "textbox", "combobox", "link", "dialog", "log", "article"} <= {
        r for r, _ in named
    }
    assert [role for role, name in named if not name] == []


def test_the_keyboard_reaches_everything_and_focus_can_be_seen(full: Page) -> None:
    # What is shown only while the pointer is near is reached all the same.
    usable = full.script("""
        document.activeElement.blur();
        return [...document.querySelectorAll('button, a, textarea')].filter(
            n => !n.disabled && n.checkVisibility({visibilityProperty: true})).length""")
    reached, plain = [], []
    while len(reached) < usable:
        ActionChains(full.driver).send_keys(Keys.TAB).perform()
        active = full.driver.switch_to.active_element
        if active.tag_name not in ("button", "a", "textarea"):
            continue  # what scrolls can be scrolled by keys
        if active in reached:
            break
        reached.append(active)
        if not full.script(
            "const box = arguments[0].closest('.box textarea') ? arguments[0].parentElement : arguments[0];"
            "const style = getComputedStyle(box); return style.outlineStyle !== 'none' || style.boxShadow !== 'none'",
            active,
        ):
            plain.append(active.accessible_name)
    names = [each.accessible_name for each in reached]
    assert {"New chat", "Settings", "Message", "Copy code", "link", "Edit"} <= set(names)
    assert len(reached) == usable
    assert plain == []


def test_the_thread_follows_the_answer_unless_one_reads_above(
    page: Page, server: ScriptedServer
) -> None:
    server.script.answers += [answer("line\n\n" * 80), answer("more\n\n" * 40)]
    page.ask("long")
    page.ended()
    end = "const t = document.querySelector('.thread'); return t.scrollHeight - t.scrollTop - t.clientHeight"
    assert page.script(end) < 2
    assert not page.find(".latest").is_displayed()
    page.script("document.querySelector('.thread').scrollTop = 0")
    page.wait(lambda: page.find(".latest").is_displayed())
    page.press("To the latest message")
    assert page.script(end) < 2
    page.ask("again")
    page.ended(2)
    assert page.script(end) < 2
