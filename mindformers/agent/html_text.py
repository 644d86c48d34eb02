"""A web page as text: title, lines and links, whatever its HTML is like."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin

_HIDDEN = {"script", "style", "noscript", "template", "svg", "head"}
_LINES = {
    "address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "footer",
    "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre",
    "section", "table", "tr", "ul",
}  # fmt: skip
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([\w-]{1,40})", re.IGNORECASE)
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class Page:
    """A page as a model reads it.

    Args:
        address: Where it is.
        title: Its title, else the last part of the address.
        lines: Its text, without blank lines.
        links: (text, address) of what it links to, each address once.
    """

    address: str
    title: str
    lines: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()


def read_html(data: bytes, address: str, charset: str = "") -> Page:
    """Return a page of HTML; never fails, however broken it is.

    Args:
        data: The bytes.
        address: Where it is; links are relative to it.
        charset: The encoding that was said with it, if one was.
    """
    parser = _Parser()
    parser.feed(decoded(data, charset))
    parser.close()
    links: dict[str, str] = {}
    for target, text in parser.links:
        try:
            absolute = urldefrag(urljoin(address, target)).url
        except ValueError:  # no address at all
            continue
        links.setdefault(absolute, " ".join(text.split()) or absolute)
    title = " ".join(parser.title.split()) or _last_part(address)
    pairs = tuple((text, target) for target, text in links.items() if target != address)
    return Page(address, title, lines_of("".join(parser.text)), pairs)


def read_text(data: bytes, address: str, charset: str = "") -> Page:
    """Return a page of plain text."""
    lines = lines_of(decoded(data, charset))
    return Page(address, _last_part(address), lines)


def decoded(data: bytes, charset: str = "") -> str:
    """Return the text of bytes in the encoding that was said, is marked or declared, else UTF-8."""
    marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "")
    declared = _CHARSET.search(data[:2048])
    name = marked or charset or (declared[1].decode("ascii") if declared else "utf-8")
    try:
        return data.decode(name, "replace")
    except LookupError:
        return data.decode("utf-8", "replace")


def lines_of(text: str) -> tuple[str, ...]:
    """Return the lines that hold something, each without superfluous blanks."""
    return tuple(line for raw in text.splitlines() if (line := " ".join(raw.split())))


def _last_part(address: str) -> str:
    return address.rstrip("/").rpartition("/")[2] or address


@dataclass
class _Parser(HTMLParser):
    text: list[str] = field(default_factory=list)
    title: str = ""
    links: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._hidden: list[str] = []
        self._in_title = self._in_link = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "body":  # a head that was never closed
            self._hidden.clear()
        if tag in _HIDDEN:
            self._hidden.append(tag)
        self._in_title = tag == "title"
        if tag in _LINES:
            self.text.append("\n")
        if tag in ("td", "th"):
            self.text.append(" ")
        target = dict(attributes).get("href")
        if tag == "a":
            self._in_link = bool(target)
            if target:
                self.links.append((target, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        if tag == "title":
            self._in_title = False
        if tag == "a":
            self._in_link = False
        if tag in _LINES:
            self.text.append("\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._hidden:
            self.text.append(data)
            if self._in_link:
                target, text = self.links[-1]
                self.links[-1] = (target, text + data)
