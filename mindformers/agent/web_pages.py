"""Pages of the web, within limits: public addresses, a few redirects, a size and a time."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from mindformers.agent.html_text import Page, read_html, read_text
from mindformers.agent.pages import MAX_PAGE_BYTES
from mindformers.errors import ToolError
from mindformers.logger import logger

_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 65536
_HEADERS = {
    "User-Agent": "mindformers",
    "Accept": "text/html, text/plain",
    "Accept-Encoding": "identity",
}


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the public internet: no private, local or special one."""
    found = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(found, "ipv4_mapped", None) or found
    return inner.is_global and not inner.is_multicast


@dataclass(frozen=True)
class WebPages:
    """Pages fetched by HTTP.

    Args:
        addresses: What a search looks at.
        most_bytes: Of a page; what is longer is cut.
        seconds: For one page, redirects and name lookup included.
        redirects: How many are followed.
        may_visit: Which IP addresses may be talked to; the connection goes to the very address that was
            checked, after each redirect anew.
    """

    addresses: Sequence[str] = ()
    most_bytes: int = MAX_PAGE_BYTES
    seconds: float = 15.0
    redirects: int = 3
    may_visit: Callable[[str], bool] = is_public

    def open(self, address: str) -> Page | None:
        """Return the page of an ``http`` or ``https`` address; None for another form."""
        if not address.startswith(("http://", "https://")):
            return None
        deadline = time.monotonic() + self.seconds
        try:
            for _ in range(self.redirects + 1):
                found = self._fetch(address, deadline)
                if isinstance(found, Page):
                    return found
                address = found
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise ToolError(f"{address:.200}: cannot be loaded: {reason}") from error
        raise ToolError(f"{address:.200}: more than {self.redirects} redirects")

    def known(self) -> Iterator[Page]:
        """Give the pages of ``addresses`` that can be loaded."""
        for address in self.addresses:
            try:
                page = self.open(address)
            except ToolError as error:
                logger.warning("%s", error)
                continue
            if page is not None:
                yield page

    def _fetch(self, address: str, deadline: float) -> Page | str:
        """Return a page, or the address it has moved to."""
        parts = urlsplit(address)
        if parts.scheme not in _PORTS or not parts.hostname or parts.username or parts.password:
            raise ToolError(
                f"{address:.200}: not an address that is visited", allowed="http:// and https://"
            )
        connection = self._connect(parts, deadline)
        link = connection.sock  # the connection may let go of it before the last bytes are read
        try:
            target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
            query = quote(parts.query, safe="/?%:@!$&'()*+,;=~")
            connection.request("GET", f"{target}?{query}" if query else target, headers=_HEADERS)
            answer = connection.getresponse()
            moved = answer.getheader("Location")
            if answer.status in _REDIRECTS and moved:
                return urljoin(address, moved)
            if answer.status != http.client.OK:
                raise ToolError(f"{address:.200}: {answer.status} {answer.reason}")
            kind = answer.headers.get_content_type()
            if not (kind.startswith("text/") or kind == "application/xhtml+xml"):
                raise ToolError(f"{address:.200}: is {kind}", allowed="text and HTML")
            data = self._body(link, answer, deadline)
            charset = answer.headers.get_content_charset() or ""
            return (read_text if kind == "text/plain" else read_html)(data, address, charset)
        finally:
            connection.close()

    def _connect(self, parts: SplitResult, deadline: float) -> http.client.HTTPConnection:
        host = parts.hostname or ""
        port = parts.port or _PORTS[parts.scheme]
        found = {
            str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        }
        refused = sorted(address for address in found if not self.may_visit(address))
        if refused:
            raise ToolError(
                f"{host}: is at {', '.join(refused)}, no public address", fix="take another page"
            )
        connection = http.client.HTTPConnection(host, port, timeout=_left(deadline))
        plain = socket.create_connection((min(found), port), timeout=_left(deadline))
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection.sock = context.wrap_socket(plain, server_hostname=host)
        else:
            connection.sock = plain
        return connection

    def _body(
        self, link: socket.socket, answer: http.client.HTTPResponse, deadline: float
    ) -> bytes:
        data = bytearray()
        while len(data) < self.most_bytes:
            link.settimeout(_left(deadline))
            chunk = answer.read1(min(_CHUNK, self.most_bytes - len(data)))
            if not chunk:
                break
            data += chunk
        return bytes(data)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("took too long")
    return left
