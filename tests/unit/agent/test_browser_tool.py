"""The browser: actions, pages of a folder, broken HTML, and what it may not reach."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mindformers.agent.browser_tool import BrowserTool, read_action
from mindformers.agent.html_text import read_html
from mindformers.agent.pages import FolderPages, SearchIndex
from mindformers.errors import ConfigError, ToolError

LONG = "<html><title>Long</title><body>" + "".join(f"<p>line {n}</p>" for n in range(1, 151))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pages"
    (root / "sub").mkdir(parents=True)
    files = {
        "weather.html": "<title>Weather</title><h1>Weather in Rome</h1><p>Rain &amp; wind.</p>"
        "<a href='sub/cities.md'>Cities</a> <a href='https://example.org/x#y'>Elsewhere</a>",
        "sub/cities.md": "# Cities\n\nRome and Paris are cities.\n",
        "中文.txt": "北京今天天气晴朗。\n上海有雨。\n",
        "long.html": LONG,
        "data.bin": "Rome Rome Rome",
    }
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    (tmp_path / "secret.txt").write_text("Rome secret", encoding="utf-8")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    return root


@pytest.fixture
def browser(folder: Path) -> BrowserTool:
    return BrowserTool([FolderPages(folder)], page_lines=60)


def do(browser: BrowserTool, action: str) -> str:
    return browser.call(action, 10.0, threading.Event())


def test_a_search_ranks_pages_and_shows_the_line_that_fits(browser: BrowserTool) -> None:
    assert do(browser, 'search("weather in Rome", recency_days=30)') == (
        "【0†Weather†weather.html】\nWeather in Rome\n"
        "【1†cities.md†sub/cities.md】\nRome and Paris are cities."
    )
    assert do(browser, "search('上海')").startswith("【0†中文.txt†中文.txt】\n上海有雨。")
    with pytest.raises(ToolError, match="nothing fits 'zebra'; try other words"):
        do(browser, 'search("zebra")')


def test_results_are_clicked_by_their_ids(browser: BrowserTool) -> None:
    do(browser, 'search("Rome")')
    shown = do(browser, "mclick([1, 0, 7])")
    assert "【1†cities.md】\n# Cities\nRome and Paris are cities." in shown or (
        "【0†cities.md】" in shown
    )
    assert shown.endswith("【7】 no such id; allowed: 0 to 1")
    assert "Rain & wind." in shown
    with pytest.raises(ToolError, match=r"no ids were given; allowed: as in mclick"):
        do(browser, "mclick([])")


def test_a_page_is_opened_with_its_links_and_read_on(browser: BrowserTool) -> None:
    shown = do(browser, 'open_url("weather.html")')
    assert shown.splitlines() == [
        "Weather",
        "Weather in Rome",
        "Rain & wind.",
        "Cities Elsewhere",
        "",
        "【0†Cities†sub/cities.md】",
        "【1†Elsewhere†https://example.org/x】",
    ]
    assert "Rome and Paris" in do(browser, "mclick(0)")
    assert do(browser, "mclick(ids=[1])") == (
        "【1】 https://example.org/x: may not be opened here; search() shows what there is"
    )


def test_long_pages_are_read_in_parts(browser: BrowserTool) -> None:
    shown = do(browser, 'open_url("long.html")')
    assert shown.endswith("line 60\n[lines 1 to 60 of 150; quote_lines(61, ...) shows more]")
    assert do(browser, "quote_lines(149, 170)") == "line 149\nline 150"
    assert do(browser, "find('LINE 15')") == "L15: line 15\nL150: line 150"
    with pytest.raises(ToolError, match="'zebra' does not stand in 'Long'"):
        do(browser, "find('zebra')")
    with pytest.raises(ToolError, match="lines 0 to 3; allowed: 1 to 150, of 'Long'"):
        do(browser, "quote_lines(0, 3)")


@pytest.mark.parametrize(
    "address",
    [
        "../secret.txt", "sub/../../secret.txt", "%2e%2e/secret.txt", "/etc/passwd", "link.txt",
        "file:///etc/passwd", "sub", "", "data.bin", "a\x00b", "x" * 5000, "none.html",
    ],
)  # fmt: skip
def test_nothing_outside_the_folder_is_opened(browser: BrowserTool, address: str) -> None:
    with pytest.raises(ToolError, match="no page"):
        do(browser, f"open_url({address!r})")


def test_nothing_outside_the_folder_is_found(browser: BrowserTool) -> None:
    with pytest.raises(ToolError, match="nothing fits"):
        do(browser, 'search("secret")')


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("look('x')", "no action is called 'look'"),
        ("serch('x')", r"did you mean 'search'\?"),
        ("__import__('os').system('true')", "is no action"),
        ("search(open('/etc/passwd').read())", "is no action"),
        ("search('a' * 10**9)", "is no action"),
        ("(" * 500, "is no action"),
        ("just words", "is no action; allowed: one call, as in search"),
        ("search()", "search: .*missing 1 required positional argument: 'query'"),
        ("find('x')", r"no page is open; open one with open_url\(\) or mclick\(\)"),
    ],
)
def test_an_action_is_read_and_never_run(browser: BrowserTool, action: str, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        do(browser, action)


def test_an_action_is_read_in_both_forms() -> None:
    assert read_action("mclick([0, 2])\n") == ("mclick", [[0, 2]], {})
    assert read_action('{"call": "search(\\"x\\", recency_days=3)"}') == (
        "search", ["x"], {"recency_days": 3},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("html", "lines"),
    [
        (b"", ()),
        (b"<p>a<p>b", ("a", "b")),
        (b"<script>if (a < b) { '</p>' }</script>x", ("x",)),
        (b"<style>p {}</style><!-- c --><b>x</b> y", ("x y",)),
        (b"<p>open <b>never closed <i>x", ("open never closed x",)),
        (b"</p></div></script>x", ("x",)),
        (b"<head><title>t</title><body>x", ("x",)),
        (b"<head><script>never closed", ()),
        (b"a &amp &lt;b&gt; &#20013; &nope;", ("a & <b> 中 &nope;",)),
        (b"<table><tr><td>1<td>2<tr><td>3", ("1 2", "3")),
        (b"<![CDATA[x]]><?php y ?><!DOCTYPE z>w", ("w",)),
        ("<meta charset=gbk>中文".encode("gbk"), ("中文",)),
        ("中文".encode("utf-16"), ("中文",)),
        (b"<meta charset=nonsense>x\xff", ("x\ufffd",)),
        (b"<a href='x'>" * 3000 + b"y", ("y",)),
        (b"<" * 5000, ("<" * 5000,)),
    ],
)
def test_any_html_is_read(html: bytes, lines: tuple[str, ...]) -> None:
    assert read_html(html, "page.html").lines == lines


def test_titles_and_links_are_told() -> None:
    html = (
        b"<title> A\n page </title><a href='b.html#x'>B <i>it</i></a><a href=b.html>again</a>"
        b"<a>none</a><a href='#here'>here</a><a href='http://[bad'>bad</a>"
    )
    page = read_html(html, "dir/a.html")
    assert page.title == "A page"
    assert page.links == (("B it", "dir/b.html"),)
    assert read_html(b"x", "dir/a.html").title == "a.html"


def test_rare_words_and_short_pages_come_first() -> None:
    texts = {"a": "common common rare", "b": "common " * 50 + "rare", "c": "common"}
    pages = [read_html(text.encode(), name) for name, text in texts.items()]
    found = SearchIndex(pages).find("rare common", 10)
    assert [page.address for page, _ in found] == ["a", "b", "c"]


def test_a_folder_without_pages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        FolderPages(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"holds no page; allowed: files \.html"):
        FolderPages(tmp_path)
