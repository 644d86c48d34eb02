"""A served model for tests: answers from a script, or a tiny network, over HTTP or in process."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mindformers.errors import EngineBusyError
from mindformers.generation.config import GenerationConfig
from mindformers.generation.request import (
    Chunk,
    EmbeddingRequest,
    EngineStats,
    Request,
    TokenLogprob,
    Usage,
)
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.serving.address import claim_address, url_of
from mindformers.serving.app import build_app
from mindformers.serving.lifecycle import Server
from mindformers.serving.service import Service
from mindformers.serving.settings import ServerSettings
from tests.support.vocab import write_tiny_vocab

Script = Callable[[Request, int], Iterable[Any]]  # texts, chunks or an error, for one answer


class ScriptedHandle:
    """What a scripted answer comes through."""

    def __init__(self, request: Request | EmbeddingRequest) -> None:
        is_read = isinstance(request, EmbeddingRequest)
        prompts = request.prompts if is_read else [request.prompt]
        self.usage = Usage(prompt_tokens=sum(map(len, prompts)))
        self.is_cancelled = threading.Event()
        self.is_heard = threading.Event()
        self._callback: Any = None

    def listen(self, callback: Any) -> None:
        self._callback = callback
        self.is_heard.set()

    def cancel(self) -> None:
        self.is_cancelled.set()

    def tell(self, item: Any) -> None:
        self.is_heard.wait(10)
        self._callback(item)


class ScriptedEngine:
    """An engine whose answers a test writes: what it was asked for is in ``requests``.

    Args:
        script: Gives the pieces of an answer; a text becomes a chunk, an error ends the request.
        tokenizer: Counts tokens.
        max_length: Tokens of prompt and answer.
        room: Requests that may run; more are refused.
    """

    def __init__(
        self, script: Script, tokenizer: Any, max_length: int = 512, room: int = 1000
    ) -> None:
        self.vocab_size, self.hidden_size, self.max_length = len(tokenizer), 3, max_length
        self.requests: list[Any] = []
        self.handles: list[ScriptedHandle] = []
        self.running = 0
        self._script, self._tokenizer, self._room = script, tokenizer, room
        self._lock = threading.Lock()

    def submit(self, request: Any) -> ScriptedHandle:
        with self._lock:
            if self.running >= self._room:
                raise EngineBusyError("too many requests", retry_after=2.3)
            self.running += 1
        handle = ScriptedHandle(request)
        self.requests.append(request)
        self.handles.append(handle)
        threading.Thread(target=self._answer, args=(request, handle), daemon=True).start()
        return handle

    def _answer(self, request: Any, handle: ScriptedHandle) -> None:
        error = None
        try:
            for index in range(request.num_answers):
                self._answer_one(request, handle, index)
        except Exception as found:
            error = found
        with self._lock:
            self.running -= 1
        if error is not None:
            handle.tell(error)
        handle.tell(None)

    def _answer_one(self, request: Any, handle: ScriptedHandle, index: int) -> None:
        if isinstance(request, EmbeddingRequest):
            embedding = scripted_embedding(request.prompts[index])
            handle.tell(Chunk(index, (), "", "stop", embedding=embedding))
            return
        for piece in self._script(request, index):
            if handle.is_cancelled.is_set():
                handle.tell(Chunk(index, (), "", "cancelled"))
                return
            if isinstance(piece, Exception):
                raise piece
            chunk = piece if isinstance(piece, Chunk) else self._chunk(request, index, piece)
            handle.usage.completion_tokens += len(chunk.tokens)
            handle.tell(chunk)
            if chunk.finish_reason:
                return
        handle.tell(Chunk(index, (), "", "stop"))

    def _chunk(self, request: Request, index: int, text: str) -> Chunk:
        tokens = tuple(self._tokenizer.encode_text(text))
        logprobs: tuple[TokenLogprob, ...] = ()
        if request.logprobs is not None:
            top = tuple((n, -1.0 - n) for n in range(request.logprobs))
            logprobs = tuple(TokenLogprob(token, -0.5, top) for token in tokens)
        return Chunk(index, tokens, text, logprobs=logprobs)

    def stats(self) -> EngineStats:
        return EngineStats(
            running=self.running, blocks=8, free_blocks=8, drafted_tokens=5, accepted_tokens=3,
            finished={"stop": 1},
        )  # fmt: skip

    def drain(self, timeout: float) -> bool:
        ends = time.monotonic() + timeout
        while self.running and time.monotonic() < ends:
            time.sleep(0.01)
        return not self.running

    def close(self) -> None:
        for handle in self.handles:
            handle.cancel()


def scripted_embedding(prompt: Sequence[int]) -> np.ndarray:
    """Return what a scripted engine gives for a prompt, (3,) float32 of length 1."""
    found = np.array([len(prompt), prompt[-1] + 1, -1 / 3], np.float32)
    return found / np.linalg.norm(found)


def tiny_tokenizer(folder: Path, **settings: Any) -> ChatGLM4Tokenizer:
    """Return GLM-4's tokenizer over the tiny vocabulary."""
    return ChatGLM4Tokenizer(str(write_tiny_vocab(folder)), **settings)


def scripted_service(
    tokenizer: Any, script: Script | str, *, room: int = 1000, **settings: Any
) -> Service:
    """Return a service whose answers are a script's, or one text."""
    text = script
    answers = script if callable(script) else lambda request, index: [text]
    special = tokenizer.special_tokens
    return Service(
        name="tiny",
        engine=ScriptedEngine(answers, tokenizer, room=room),
        tokenizer=tokenizer,
        defaults=GenerationConfig(
            eos_token_id=[special[name] for name in tokenizer.end_tokens],
            allowed_vocab_size=len(tokenizer),
        ),
        settings=ServerSettings(**settings),
    )


@contextmanager
def running(service: Service, *, is_local: bool = True) -> Iterator[str]:
    """Serve on 127.0.0.1 at a free port, in a thread, while inside; gives the URL."""
    listener = claim_address("127.0.0.1", 0)
    server = Server(build_app(service, is_local=is_local), service)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    url = url_of(listener)
    thread.start()
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def counting(prefix: str = "word") -> Iterator[str]:
    """Yield words for ever, one every few milliseconds."""
    for number in itertools.count():
        time.sleep(0.005)
        yield f"{prefix}{number} "


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Wait until a condition holds; return whether it does."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.005)
    return True


def raw_request(url: str, request: bytes) -> socket.socket:
    """Send bytes to a server and return the open connection."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(request)
    return connection
