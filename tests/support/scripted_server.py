"""A server that says what a test tells it to: the protocol that the chat page speaks, without a model."""

from __future__ import annotations

import json
import mimetypes
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mindformers.serving.page import HEADERS

PAGE = Path(__file__).resolve().parents[2] / "mindformers" / "serving" / "page"
LONGEST_WAIT = 20.0  # seconds, for a test that never lets an answer go on


class Cut:
    """A step of an answer: the connection breaks."""


class UntilGone:
    """A step of an answer: nothing more comes until the reader has gone."""


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error."""

    status: int
    message: str
    retry_after: str = ""


Step = dict[str, Any] | bytes | threading.Event | Cut | UntilGone


def delta(finish: str | None = None, **content: Any) -> dict[str, Any]:
    """Return one chunk of an answer."""
    choice = {"index": 0, "delta": content, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion.chunk", "model": "tiny", "choices": [choice]}


def usage(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    """Return the last chunk, that of the figures."""
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    return {
        "id": "x",
        "object": "chat.completion.chunk",
        "model": "tiny",
        "choices": [],
        "usage": counts,
    }


def answer(text: str, finish: str = "stop", pieces: int = 4) -> list[Step]:
    """Return the steps of a whole answer, its text in pieces."""
    size = max(1, -(-len(text) // pieces))
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    return [
        delta(role="assistant", content=""),
        *(delta(content=part) for part in parts),
        delta(finish=finish),
        usage(12, len(parts) + 1, cached=8),
        b"data: [DONE]\n\n",
    ]


def tool_calls(*calls: tuple[str, str]) -> list[Step]:
    """Return the steps of an answer that calls tools, given as (name, arguments)."""
    steps: list[Step] = [delta(role="assistant", content="")]
    for index, (name, arguments) in enumerate(calls):
        head = {"index": index, "id": f"call_{name}", "type": "function"}
        steps.append(delta(tool_calls=[{**head, "function": {"name": name, "arguments": ""}}]))
        for part in (arguments[:5], arguments[5:]):
            steps.append(delta(tool_calls=[{"index": index, "function": {"arguments": part}}]))
    return [*steps, delta(finish="tool_calls"), usage(30, 20), b"data: [DONE]\n\n"]


@dataclass
class Script:
    """What the server says next and what it was asked."""

    answers: deque[Refusal | Iterable[Step]] = field(default_factory=deque)
    requests: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)  # of everything that was asked for
    models: list[str] = field(default_factory=lambda: ["tiny"])
    key: str = ""  # empty: none is needed
    reader_gone: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def do_GET(self) -> None:
        self.script.paths.append(self.path)
        if self.path == "/v1/models":
            if self._is_allowed():
                self._json(
                    200, {"object": "list", "data": [{"id": name} for name in self.script.models]}
                )
            return
        name = self.path.removeprefix("/") or "index.html"
        file = (PAGE / name).resolve()
        if not file.is_relative_to(PAGE) or not file.is_file():
            self._json(404, {"error": {"message": "nothing is here"}})
            return
        self._send(200, file.read_bytes(), mimetypes.guess_type(file.name)[0] or "")

    def do_POST(self) -> None:
        self.script.paths.append(self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._is_allowed():
            return
        self.script.requests.append(body)
        said = (
            self.script.answers.popleft() if self.script.answers else Refusal(500, "no answer left")
        )
        if isinstance(said, Refusal):
            headers = {"Retry-After": said.retry_after} if said.retry_after else {}
            self._json(said.status, {"error": {"message": said.message}}, headers)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")  # a server that is stopped must not live on in one
        self.end_headers()
        try:
            self._stream(iter(said))
        except OSError:
            self.script.reader_gone.set()
            self.close_connection = True

    def _stream(self, steps: Iterator[Step]) -> None:
        for step in steps:
            if isinstance(step, threading.Event):
                step.wait(LONGEST_WAIT)
            elif isinstance(step, Cut):
                self.close_connection = True
                return
            elif isinstance(step, UntilGone):
                end = time.monotonic() + LONGEST_WAIT
                while time.monotonic() < end:
                    self._chunk(b": waiting\n\n")
                    time.sleep(0.02)
            else:
                self._chunk(
                    step if isinstance(step, bytes) else f"data: {json.dumps(step)}\n\n".encode()
                )
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _is_allowed(self) -> bool:
        if not self.script.key or self.headers["Authorization"] == f"Bearer {self.script.key}":
            return True
        self._json(401, {"error": {"message": "the API key is not the one that is needed"}})
        return False

    def _json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), "application/json", headers)

    def _send(
        self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in {"Connection": "close", **HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


class ScriptedServer:
    """The server on a free port of this machine; ``script`` may be changed at any time."""

    def __init__(self) -> None:
        self.script = Script()
        self._handler = type("Handler", (_Handler,), {"script": self.script})
        self._start(0)

    def _start(self, port: int) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def start_again(self) -> None:
        """Listen on the same port as before."""
        self._start(self.port)
