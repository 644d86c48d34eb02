"""Where a browser's pages come from, and how they are searched."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from mindformers.agent.html_text import Page, read_html, read_text
from mindformers.errors import ConfigError, ToolError

MAX_PAGE_BYTES = 2 * 2**20
MAX_PAGES = 5000
_READERS = {
    ".html": read_html, ".htm": read_html, ".xhtml": read_html,
    ".txt": read_text, ".md": read_text, ".rst": read_text,
}  # fmt: skip
# A word, or one character of a script that is written without blanks.
_WORD = re.compile(r"[a-z0-9]+|[\u3040-\u30ff\u3400-\u9fff]", re.IGNORECASE)
_SATURATION, _LENGTH_WEIGHT = 1.2, 0.75  # of BM25, as everywhere


class Pages(Protocol):
    """Pages that can be had by address, some of which are known beforehand."""

    def open(self, address: str) -> Page | None:
        """Return a page; None: addresses of this form are not its own.

        Raises:
            ToolError: If there is no such page, or it may not be read.
        """

    def known(self) -> Iterator[Page]:
        """Give the pages that a search looks at."""


class FolderPages:
    """The pages of a folder: HTML, Markdown and plain text, by their path inside it.

    Args:
        folder: Its files are read when they are asked for; what lies outside never is.

    Raises:
        ConfigError: If it is no folder, or holds no page.
    """

    def __init__(self, folder: str | Path) -> None:
        if not Path(folder).is_dir():
            raise ConfigError("no such folder", where=str(folder), allowed="a folder of pages")
        self._root = Path(folder).resolve()
        if not any(True for _ in self._paths()):
            raise ConfigError(
                "holds no page", where=str(folder), allowed=f"files {', '.join(_READERS)}"
            )

    def open(self, address: str) -> Page | None:
        """Return the page of a path inside the folder; None for an address of the web."""
        if "://" in address and not address.startswith("file://"):
            return None
        name = unquote(address.removeprefix("file://").partition("#")[0])
        try:
            path = (self._root / name.lstrip("/")).resolve()
            is_page = self._is_inside(path) and path.is_file() and path.suffix.lower() in _READERS
        except (
            OSError,
            ValueError,
            RuntimeError,
        ):  # a name too long, a zero byte, a circle of links
            is_page = False
        if not is_page:
            raise ToolError(f"no page {address!r:.200}", fix="search() shows what there is")
        return self._read(path)

    def known(self) -> Iterator[Page]:
        """Give all pages, in the order of their paths."""
        for path in sorted(self._paths()):
            yield self._read(path)

    def _read(self, path: Path) -> Page:
        with path.open("rb") as stream:
            data = stream.read(MAX_PAGE_BYTES)
        return _READERS[path.suffix.lower()](data, path.relative_to(self._root).as_posix())

    def _paths(self) -> Iterator[Path]:
        count = 0
        for path in self._root.rglob("*"):
            if path.suffix.lower() in _READERS and path.is_file() and self._is_inside(path):
                yield path
                count += 1
            if count == MAX_PAGES:
                return

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._root)


class SearchIndex:
    """Ranks pages by the words of a query (BM25).

    Args:
        pages: What is searched.
    """

    def __init__(self, pages: Sequence[Page]) -> None:
        self._pages = pages
        self._counts = [Counter(_words(f"{p.title} {p.title} {' '.join(p.lines)}")) for p in pages]
        self._lengths = [sum(count.values()) for count in self._counts]
        self._spread = Counter(word for count in self._counts for word in count)

    def find(self, query: str, most: int) -> list[tuple[Page, str]]:
        """Return up to ``most`` pages that hold a word of the query, best first, with the line that fits best."""
        words = set(_words(query))
        scores = [self._score(words, place) for place in range(len(self._pages))]
        order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
        return [
            (self._pages[place], _best_line(self._pages[place], words))
            for place in order[:most]
            if scores[place] > 0
        ]

    def _score(self, words: set[str], place: int) -> float:
        mean = sum(self._lengths) / max(len(self._lengths), 1)
        weight = 1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * self._lengths[place] / max(mean, 1)
        score = 0.0
        for word in words:
            count, spread = self._counts[place][word], self._spread[word]
            rarity = math.log(1 + (len(self._pages) - spread + 0.5) / (spread + 0.5))
            score += rarity * count * (_SATURATION + 1) / (count + _SATURATION * weight)
        return score


def _best_line(page: Page, words: set[str]) -> str:
    return max(page.lines, key=lambda line: len(words.intersection(_words(line))), default="")


def _words(text: str) -> list[str]:
    """Return the words of a text; of scripts without blanks its characters and pairs of them."""
    found = _WORD.findall(text.lower())
    pairs = [
        first + second
        for first, second in itertools.pairwise(found)
        if not first.isascii() and not second.isascii()
    ]
    return found + pairs
