"""Pages of the web, from a server on this machine that is let through on purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mindformers.agent.web_pages import WebPages, is_public
from mindformers.errors import ToolError


class Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/hop"):
            left = int(path[4:])
            self._answer(302, b"", Location=f"/hop{left - 1}" if left else "/page")
        elif path == "/out":
            self._answer(301, b"", Location="ftp://example.org/")
        elif path == "/large":
            self._answer(200, b"x" * 5000, kind="text/plain")
        elif path == "/image":
            self._answer(200, b"x", kind="image/png")
        elif path == "/slow":
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            with suppress(ConnectionError):  # the reader leaves
                for _ in range(100):
                    self.wfile.write(b"x\n")
                    time.sleep(0.05)
        elif path == "/page":
            text = "<title>中</title><p>文 <a href='/other'>other</a>".encode("gbk")
            self._answer(200, text, kind="text/html; charset=gbk")
        else:
            self._answer(404, b"")

    def _answer(self, code: int, body: bytes, kind: str = "text/html", **headers: str) -> None:
        self.send_response(code)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def web(**settings: object) -> WebPages:
    return WebPages(may_visit=lambda address: True, **settings)  # type: ignore[arg-type]


def test_a_page_is_read_in_its_encoding_with_its_links(site: str) -> None:
    page = web().open(f"{site}/page?q=中 文")
    assert page is not None
    assert (page.title, page.lines) == ("中", ("文 other",))
    assert page.links == (("other", f"{site}/other"),)


def test_redirects_are_followed_so_far(site: str) -> None:
    page = web(redirects=3).open(f"{site}/hop2")
    assert page is not None
    assert page.address == f"{site}/page"
    with pytest.raises(ToolError, match="more than 3 redirects"):
        web(redirects=3).open(f"{site}/hop9")
    with pytest.raises(ToolError, match="ftp://example.org/: not an address that is visited"):
        web().open(f"{site}/out")


def test_every_redirect_is_checked_anew(site: str) -> None:
    asked: list[str] = []

    def once(address: str) -> bool:
        asked.append(address)
        return len(asked) == 1

    with pytest.raises(ToolError, match=r"127\.0\.0\.1: is at 127\.0\.0\.1, no public address"):
        WebPages(may_visit=once).open(f"{site}/hop2")
    assert len(asked) == 2


def test_size_time_kind_and_status_are_bounded(site: str) -> None:
    page = web(most_bytes=100).open(f"{site}/large")
    assert page is not None
    assert page.lines == ("x" * 100,)
    with pytest.raises(ToolError, match="cannot be loaded: (took too long|timed out)"):
        web(seconds=0.3).open(f"{site}/slow")
    with pytest.raises(ToolError, match="is image/png; allowed: text and HTML"):
        web().open(f"{site}/image")
    with pytest.raises(ToolError, match="404 Not Found"):
        web().open(f"{site}/none")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "224.0.0.1",
        "100.64.0.1", "::1", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "::", "ff02::1",
        "255.255.255.255",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_not_visited(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1/", "http://localhost:1/", "http://[::1]/", "http://2130706433/"]
)
def test_this_machine_is_refused_in_every_spelling(address: str) -> None:
    with pytest.raises(ToolError, match="no public address|cannot be loaded"):
        WebPages().open(address)


@pytest.mark.parametrize(
    "address", ["http://", "http://user:pw@example.org/", "http://a:99999/", "http://[x/"]
)
def test_odd_addresses_are_refused(address: str) -> None:
    with pytest.raises(ToolError):
        web().open(address)


def test_other_forms_are_left_to_others_and_failing_pages_out_of_a_search(site: str) -> None:
    assert web().open("page.html") is None
    assert [p.title for p in web(addresses=[f"{site}/none", f"{site}/page"]).known()] == ["中"]
