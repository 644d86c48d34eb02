"""``simple_browser``: GLM-4's browser over whatever pages there are."""

from __future__ import annotations

import ast
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mindformers.agent.html_text import Page
from mindformers.agent.pages import Pages, SearchIndex
from mindformers.agent.tool import own_text, run_in_time
from mindformers.errors import ToolError, did_you_mean

_MOST_RESULTS = 10
_MOST_LINKS = 20
_MOST_CLICKS = 10
_SNIPPET_CHARS = 200
_LONGEST_CALL = 10_000  # characters
_FUNCTION: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "simple_browser",
        "description": "Read pages. One action per call: search(query), mclick(ids) opens results, "
        "open_url(url), find(text) in the open page, quote_lines(start, end) of it.",
        "parameters": {
            "type": "object",
            "properties": {"call": {"type": "string", "description": 'As in search("GLM-4")'}},
            "required": ["call"],
        },
    },
}


class BrowserTool:
    """Searches and reads pages.

    Args:
        sources: Where pages come from; the first that knows an address gives it.
        page_lines: Lines of a page that are shown at once.
    """

    name = "simple_browser"
    schema: Mapping[str, Any] = {"type": "simple_browser"}
    function_schema = _FUNCTION

    def __init__(self, sources: Sequence[Pages], page_lines: int = 60) -> None:
        self._sources, self._page_lines = sources, page_lines
        self._addresses: list[str] = []  # what the ids of the last list mean
        self._page: Page | None = None
        self._actions: dict[str, Callable[..., str]] = {
            "search": self.search,
            "mclick": self.mclick,
            "open_url": self.open_url,
            "find": self.find,
            "quote_lines": self.quote_lines,
        }

    def call(self, arguments: str, seconds: float, stop: threading.Event) -> str:
        """Do one action, written as a Python call of constants, and return what it shows.

        Raises:
            ToolError: If there is no such action, its arguments do not fit, or a page cannot be read.
        """
        name, given, named = read_action(arguments)
        if name not in self._actions:
            raise ToolError(
                f"no action is called {name!r}",
                allowed=", ".join(self._actions),
                fix=did_you_mean(name, self._actions),
            )
        action = functools.partial(self._actions[name], *given, **named)
        try:
            return str(run_in_time(action, seconds, stop))
        except TypeError as error:
            raise ToolError(f"{name}: {error}") from error

    def close(self) -> None:
        """Do nothing: nothing is held."""

    @functools.cached_property
    def _index(self) -> SearchIndex:
        return SearchIndex([page for source in self._sources for page in source.known()])

    def search(self, query: str, recency_days: int | None = None) -> str:
        """Return the pages that fit a query; how old they are is not known."""
        del recency_days
        found = self._index.find(str(query), _MOST_RESULTS)
        if not found:
            raise ToolError(f"nothing fits {query!r:.200}", fix="try other words")
        self._addresses = [page.address for page, _ in found]
        return "\n".join(
            f"{_reference(place, page.title, page.address)}\n{line[:_SNIPPET_CHARS]}"
            for place, (page, line) in enumerate(found)
        )

    def mclick(self, ids: Sequence[int]) -> str:
        """Return the pages with these ids in the list shown last; those that fail say why."""
        chosen = [ids] if isinstance(ids, int) else list(ids)
        shown = []
        for place in chosen[:_MOST_CLICKS]:
            if not (isinstance(place, int) and 0 <= place < len(self._addresses)):
                shown.append(f"【{place}】 no such id; allowed: 0 to {len(self._addresses) - 1}")
                continue
            try:
                page = self._open(self._addresses[place])
                shown.append(f"【{place}†{page.title}】\n{self._lines(page, 1, self._page_lines)}")
            except ToolError as error:
                shown.append(f"【{place}】 {error}")
        if not shown:
            raise ToolError("no ids were given", allowed="as in mclick([0, 2])")
        return "\n\n".join(shown)

    def open_url(self, url: str) -> str:
        """Return a page and its links; their ids are for ``mclick``."""
        page = self._open(str(url))
        links = page.links[:_MOST_LINKS]
        text = f"{page.title}\n{self._lines(page, 1, self._page_lines)}"
        if not links:
            return text
        self._addresses = [address for _, address in links]
        listed = [_reference(place, text, to) for place, (text, to) in enumerate(links)]
        return "\n".join([text, "", *listed])

    def find(self, text: str) -> str:
        """Return the lines of the open page that hold a text."""
        page = self._opened()
        wanted = str(text).casefold()
        found = [n for n, line in enumerate(page.lines, 1) if wanted in line.casefold()]
        if not found:
            raise ToolError(f"{text!r:.200} does not stand in {page.title!r}")
        return "\n".join(f"L{n}: {page.lines[n - 1]}" for n in found[: self._page_lines])

    def quote_lines(self, start: int, end: int) -> str:
        """Return lines ``start`` to ``end`` of the open page, counted from 1."""
        page = self._opened()
        if not 1 <= start <= end or start > len(page.lines):
            raise ToolError(
                f"lines {start} to {end}", allowed=f"1 to {len(page.lines)}, of {page.title!r}"
            )
        return self._lines(page, start, min(end, start + self._page_lines - 1))

    def _opened(self) -> Page:
        if self._page is None:
            raise ToolError("no page is open", fix="open one with open_url() or mclick()")
        return self._page

    def _open(self, address: str) -> Page:
        for source in self._sources:
            page = source.open(address)
            if page is not None:
                self._page = page
                return page
        raise ToolError(
            f"{address:.200}: may not be opened here", fix="search() shows what there is"
        )

    @staticmethod
    def _lines(page: Page, start: int, end: int) -> str:
        shown = "\n".join(page.lines[start - 1 : end])
        if end >= len(page.lines):
            return shown
        return f"{shown}\n[lines {start} to {end} of {len(page.lines)}; quote_lines({end + 1}, ...) shows more]"


def _reference(place: int, title: str, address: str) -> str:
    return f"【{place}†{title}†{address}】"


def read_action(arguments: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Return name, arguments and named arguments of a call such as ``search("GLM-4")``; nothing is run.

    Raises:
        ToolError: If it is no such call.
    """
    arguments = own_text(BrowserTool.name, arguments)
    try:
        call = ast.parse(arguments.strip()[:_LONGEST_CALL], mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            values = [ast.literal_eval(each) for each in call.args]
            named = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
            return call.func.id, values, named
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass  # said below, as for what is no call at all
    raise ToolError(f"{arguments!r:.200} is no action", allowed='one call, as in search("GLM-4")')
