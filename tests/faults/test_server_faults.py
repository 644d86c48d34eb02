"""A server among bad requests, clients that leave, signals and addresses that cannot be used."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from mindformers import machine
from mindformers.errors import ConfigError
from mindformers.guard import run_guarded
from mindformers.serving import address, lifecycle
from mindformers.serving.address import claim_address
from mindformers.serving.settings import Limits
from tests.support.serving import (
    counting,
    raw_request,
    running,
    scripted_service,
    tiny_tokenizer,
    wait_for,
)

ROOT = Path(__file__).resolve().parents[2]
CHAT = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "Hello"}]}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_tokenizer(tmp_path_factory.mktemp("vocab"))


def endless(request: Any, index: int) -> Iterator[str]:
    yield from counting()


def http_request(body: bytes, path: str = CHAT, length: int | None = None) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return (
        f"{head}content-length: {len(body) if length is None else length}\r\n\r\n".encode() + body
    )


def streamed(url: str, body: dict[str, Any]) -> Iterator[dict[str, Any] | str]:
    """Yield what a stream's events hold."""
    with httpx.stream("POST", url + CHAT, json={**body, "stream": True}, timeout=30) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                text = line.removeprefix("data: ")
                yield text if text == "[DONE]" else json.loads(text)


def is_closed(connection: socket.socket, more: bytes = b"") -> bool:
    """Send more over a connection; return whether the other side has closed it."""
    connection.settimeout(0.01)
    try:
        connection.sendall(more)
        return not connection.recv(10_000)
    except TimeoutError:
        return False
    except OSError:
        return True


# --- bad requests --------------------------------------------------------------------------------

BOMBS: dict[str, tuple[int, bytes]] = {
    "not JSON": (400, b"{"),
    "not UTF-8": (400, b"\xff\xfe"),
    "UTF-16": (400, json.dumps(HI).encode("utf-16")),
    "depth": (400, b"[" * 1_000_000),
    "closed depth": (400, b'{"a":' * 65 + b"1" + b"}" * 65),
    "depth behind a text": (400, b'{"\\"[":"]]]]","b":' + b"[" * 65 + b"]" * 65 + b"}"),
    "escapes without end": (400, b'"' + b'\\"' * 1_000_000),
    "long number": (400, b'{"seed":' + b"9" * 100_000 + b"}"),
    "small penalty": (400, json.dumps({**HI, "repetition_penalty": 1e-300}).encode()),
    "many faults": (400, b'{"messages":[' + b"1," * 500_000 + b"1]}"),
    "long body": (413, b" " * (2 * 2**20 + 1)),
    "messages": (400, json.dumps({"messages": HI["messages"] * 10_001}).encode()),
    "n": (400, json.dumps({**HI, "n": 10**9}).encode()),
    "best_of": (400, json.dumps({**HI, "best_of": 10**9}).encode()),
    "logprobs": (400, json.dumps({**HI, "top_logprobs": 10**9, "logprobs": True}).encode()),
    "negative": (400, json.dumps({**HI, "max_tokens": -1}).encode()),
    "role": (400, json.dumps({"messages": [{"role": "king", "content": "x"}]}).encode()),
    "stop": (400, json.dumps({**HI, "stop": ["a"] * 10_000}).encode()),
    "surrogate": (400, b'{"messages":[{"role":"user","content":"\\ud800"}]}'),
}


def test_bad_requests_are_refused_and_a_stream_goes_on(tokenizer: Any) -> None:
    with running(scripted_service(tokenizer, endless)) as url:
        words = streamed(url, HI)
        first = [next(words) for _ in range(5)]
        with httpx.Client() as client:
            for name, (status, body) in BOMBS.items():
                answer = client.post(url + CHAT, content=body, headers=JSON, timeout=20)
                assert answer.status_code == status, name
                error = answer.json()["error"]
                assert error["type"] == "invalid_request_error", name
                assert len(error["message"]) < 1000, name
        later = [next(words) for _ in range(5)]
        words.close()
    assert first[0]["choices"][0]["delta"]["role"] == "assistant"
    texts = [event["choices"][0]["delta"]["content"] for event in [*first[1:], *later]]
    heard = "".join(texts).split()
    assert heard[0] == "word0"
    assert heard[:4] == ["word0", "word1", "word2", "word3"]


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([{"type": "function", "function": {"name": "a\nb"}}], "tools"),
        ([{"type": "function", "function": {"name": "<|user|>"}}], "tools"),
        ([{"type": "function", "function": {"name": "a"}}] * 2, "two tools are called 'a'"),
        ([{"type": "function", "function": {"name": f"a{n}"}} for n in range(1000)], "tools"),
        (
            [{"type": "function", "function": {"name": "a", "parameters": {
                "type": "object", "properties": {"x": {"type": "string", "pattern": "(a+)+$"}}}}}],
            "pattern",
        ),
        (
            [{"type": "function", "function": {"name": "a", "parameters": {
                "type": "object", "properties": {"x": {"$ref": "#/properties/x"}},
                "required": ["x"]}}}],
            "ref",
        ),
    ],
    ids=["newline", "control token", "twice", "many", "pattern", "circle"],
)  # fmt: skip
def test_tools_that_cannot_be_used_are_refused(tokenizer: Any, tools: Any, message: str) -> None:
    with running(scripted_service(tokenizer, "x")) as url:
        body = {**HI, "tools": tools, "tool_choice": "required"}
        answer = httpx.post(url + CHAT, json=body, timeout=20)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_a_body_whose_length_is_a_lie_is_refused(tokenizer: Any) -> None:
    with running(scripted_service(tokenizer, "x")) as url:
        with raw_request(url, http_request(b"{}", length=100 * 2**20)) as connection:
            assert connection.recv(200).startswith(b"HTTP/1.1 413 ")
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        head += "transfer-encoding: chunked\r\n\r\n"
        with raw_request(url, head.encode() + chunk * 65) as connection:
            assert connection.recv(200).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_arrive_is_not_waited_for(tokenizer: Any) -> None:
    service = scripted_service(tokenizer, "x", limits=Limits(body_timeout=0.1))
    with (
        running(service) as url,
        raw_request(url, http_request(b"{", length=10)) as connection,
    ):
        assert connection.recv(200).startswith(b"HTTP/1.1 408 ")


def test_connections_without_a_whole_request_are_closed_and_others_are_not(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_IDLE_SECONDS", 0.4)
    health = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    too_long = http_request(b"", length=100 * 2**20)
    with running(scripted_service(tokenizer, endless)) as url:
        words = streamed(url, HI)
        next(words)
        more = {  # what follows, for ever, what was sent first
            raw_request(url, first): next_
            for first, next_ in (
                (b"", b""), (health[:-2], b"x: y\r\n"), (health, b""), (too_long, b" " * 100)
            )
        }  # fmt: skip
        busy = raw_request(url, health)
        ends = time.monotonic() + 20
        still = list(more)
        while still and time.monotonic() < ends:
            still = [each for each in still if not is_closed(each, more[each])]
            assert busy.recv(1000).startswith(b"HTTP/1.1 200 ")
            busy.sendall(health)
        for each in (*more, busy):
            each.close()
        assert still == []
        assert next(words)["choices"]
        words.close()


def test_too_many_connections_cost_the_oldest_that_ask_for_nothing(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "open_files", lambda wanted: 16)  # 12 requests, 13 connections
    service = scripted_service(tokenizer, endless)
    with running(service) as url, httpx.Client(base_url=url) as client:
        idle = []
        for _ in range(20):
            idle.append(raw_request(url, b""))
            time.sleep(0.02)  # the queue for being accepted is short here
        assert wait_for(lambda: sum(map(is_closed, idle)) == 7)
        last = [each for each in idle if not is_closed(each)][-1]
        last.settimeout(20)
        last.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert last.recv(100).startswith(b"HTTP/1.1 200 ")
        stream = http_request(json.dumps({**HI, "stream": True}).encode())
        streams = [raw_request(url, stream) for _ in range(12)]
        assert all(each.recv(100).startswith(b"HTTP/1.1 200 ") for each in streams)
        answer = client.get("/v1/models")
        for each in (*idle, *streams):
            each.close()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "server_busy"


def test_too_few_open_files_are_told_before_the_model_is_looked_for(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_file_limits", lambda: (100, 100))
    with pytest.raises(ConfigError, match="ulimit -n: found 100; allowed: 256 or more"):
        claim_address("127.0.0.1", 0)


def test_a_client_that_closes_its_side_has_left(tokenizer: Any) -> None:
    service = scripted_service(tokenizer, endless)
    with (
        running(service) as url,
        raw_request(url, http_request(json.dumps(HI).encode())) as connection,
    ):
        assert wait_for(lambda: service.running == 1)
        connection.shutdown(socket.SHUT_WR)
        assert wait_for(lambda: service.running == 0)
        assert connection.recv(10) == b""


def test_long_answers_are_written_beside_the_event_loop(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    render = JSONResponse.render

    def noted(self: JSONResponse, content: Any) -> bytes:
        threads.append(threading.current_thread().name)
        return render(self, content)

    monkeypatch.setattr(JSONResponse, "render", noted)
    with running(scripted_service(tokenizer, "x")) as url:
        for path, body in ((CHAT, HI), ("/tokenize", HI), ("/tokenize", {"prompt": "Hello"})):
            assert httpx.post(url + path, json=body).status_code == 200
    assert [name.partition("_")[0] for name in threads] == ["asyncio"] * 3


# --- clients that leave or wait ------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_answer(tokenizer: Any, stream: bool) -> None:
    service = scripted_service(tokenizer, endless)
    engine = service.engine
    with running(service) as url:
        body = json.dumps({**HI, "stream": stream}).encode()
        for _ in range(50):
            seen = len(engine.requests)
            with raw_request(url, http_request(body)) as connection:
                if stream:
                    assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
                assert wait_for(lambda seen=seen: len(engine.requests) > seen)
            assert wait_for(lambda: engine.running == 0)
        assert wait_for(lambda: service.running == 0)
        assert 'status="499"} 50.0' in httpx.get(f"{url}/metrics").text


def test_a_reader_that_stands_still_holds_nobody_up_and_is_let_go(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.skip("only Linux lets go of a connection that stands still")
    monkeypatch.setattr(address, "_STALLED_MS", 300)

    def script(request: Any, index: int) -> Iterator[str]:
        for _ in range(3000 if request.seed else 1):
            yield "x" * 10_000
            time.sleep(0.002)

    service = scripted_service(tokenizer, script)
    with running(service) as url:
        body = json.dumps({**HI, "seed": 1, "stream": True}).encode()
        with raw_request(url, http_request(body)):
            assert wait_for(lambda: service.running == 1)
            other = httpx.post(url + CHAT, json=HI, timeout=10).json()
            assert other["choices"][0]["message"]["content"] == "x" * 10_000
            assert wait_for(lambda: service.running == 0, seconds=20)
        assert service.engine.handles[0].is_cancelled.is_set()


def test_a_stream_that_has_nothing_to_say_yet_keeps_its_connection(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mindformers.serving.run._PING_SECONDS", 0.02)
    may_speak = threading.Event()

    def script(request: Any, index: int) -> Iterator[str]:
        may_speak.wait(10)
        yield "late"

    with running(scripted_service(tokenizer, script)) as url:
        body = json.dumps({**HI, "stream": True}).encode()
        with raw_request(url, http_request(body)) as connection:
            heard = b""
            while heard.count(b": still working\n\n") < 3:
                heard += connection.recv(1000)
            may_speak.set()
            while b"[DONE]" not in heard:
                heard += connection.recv(1000)
    assert b'"content":"late"' in heard


def test_a_template_that_reaches_out_of_its_sandbox_is_refused(tmp_path: Path) -> None:
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    tokenizer = tiny_tokenizer(tmp_path, chat_template=template)
    with running(scripted_service(tokenizer, "x")) as url:
        assert httpx.post(url + CHAT, json=HI).status_code == 400
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": "Hello"})
    assert answer.json()["choices"][0]["text"] == "x"


def test_an_answer_that_takes_too_long_is_an_error_of_its_own(tokenizer: Any) -> None:
    from mindformers.generation.request import Chunk

    service = scripted_service(tokenizer, lambda *_: ["a", Chunk(0, (), "", "timeout")])
    with running(service) as url:
        answer = httpx.post(url + CHAT, json=HI)
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "timeout"
        assert answer.headers["x-should-retry"] == "false"
        *_, error, done = streamed(url, HI)
    assert (error["error"]["code"], done) == ("timeout", "[DONE]")
    assert service.engine.requests[0].timeout == Limits().request_timeout


# --- keys and what is logged ---------------------------------------------------------------------


def test_neither_keys_nor_texts_are_logged(
    tokenizer: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    monkeypatch.setattr(logging.getLogger("mindformers"), "propagate", True)
    caplog.set_level(logging.DEBUG)
    service = scripted_service(tokenizer, "secretanswer", api_keys=("sesame-open",))
    secret = {"messages": [{"role": "user", "content": "secretquestion"}], "user": "secretuser"}
    with running(service) as url:
        for key in ("sesame-open", "sesame-wrong"):
            header = {"authorization": f"Bearer {key}"}
            httpx.post(url + CHAT, json=secret, headers=header)
            httpx.get(f"{url}/secretpath?key=sesame-open", headers=header)
            httpx.post(url + CHAT, json={**secret, "secretfield": 1}, headers=header)
    told = [record.getMessage() for record in caplog.records if record.name == "mindformers"]
    lines = [line for line in told if line.startswith("127.0.0.1 ")]
    assert len(lines) == 6
    assert all("sesame" not in line and "secret" not in line for line in told)
    assert lines[0].startswith(f"127.0.0.1 POST {CHAT} 200 ")
    assert " tokens " in lines[0]
    assert lines[3].startswith("127.0.0.1 POST other 401 ")


def test_what_is_asked_for_over_and_over_is_logged_only_where_it_fails(
    tokenizer: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    monkeypatch.setattr(logging.getLogger("mindformers"), "propagate", True)
    caplog.set_level(logging.INFO)
    with running(scripted_service(tokenizer, "x", api_keys=("sesame-open",))) as url:
        for path in ("/", "/health", "/v1/models"):
            httpx.get(url + path)
        answer = httpx.request("A" * 1000, f"{url}/health")
    told = [record.getMessage().split() for record in caplog.records]
    lines = [words[1:4] for words in told if words[0] == "127.0.0.1"]
    assert lines == [["GET", "other", "401"], ["A" * 16, "/health", "405"]]
    assert answer.json()["error"]["message"] == "A" * 16 + " is not for this path"


# --- addresses -----------------------------------------------------------------------------------


def command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    from mindformers.cli.main import dispatch

    code = run_guarded(dispatch, ["serve", *argv])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "no.such.host.invalid"], "--host: 'no.such.host.invalid' is no address"),
        (["--host", "192.0.2.1"], "--host: 192.0.2.1 is no address of this machine"),
        (["--port", "70000"], "--port: found 70000; allowed: 0 to 65535"),
        (["--host", "0.0.0.0", "--port", "0"], "--host: 0.0.0.0 is reached from other machines"),
        (["--max_answers", "0"], "--max_answers: found 0; allowed: a number above 0"),
        (
            ["--max_messages", "20000"],
            "--max_messages: found 20000; allowed: a number above 0, up to",
        ),
        (["--api_key_file", "/no/such/file"], "/no/such/file: cannot be read"),
        (["--cors_origin", "https://a.example/"], "--cors_origin: found 'https://a.example/'"),
        (["--cors_origin", "*"], "--cors_origin: * lets every page that a browser shows here"),
        (["--max_running", "0"], "max_running: found 0; allowed: 1 or more"),
    ],
)
def test_a_mistake_is_told_before_the_model_is_looked_for(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = command(["/no/such/model", *flags], capsys)
    assert code == 2
    assert text.startswith(f"error: {message}"), text
    assert text.count("\n") == 1


def test_a_port_in_use_is_told_before_the_model_is_looked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with claim_address("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        code, text = command(["/no/such/model", "--port", str(port)], capsys)
    assert code == 2
    assert text.startswith(f"error: --port: {port} is in use on 127.0.0.1; stop what listens")


def test_a_port_of_the_system_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(self: Any, where: Any) -> None:
        raise PermissionError(13, "Permission denied")

    class Forbidden(socket.socket):
        pass

    Forbidden.bind = bind  # type: ignore[method-assign]
    monkeypatch.setattr(socket, "socket", Forbidden)
    with pytest.raises(ConfigError, match="--port: 80 may not be used by this user; allowed: 1024"):
        claim_address("127.0.0.1", 80)


# --- signals -------------------------------------------------------------------------------------


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[[float], Any]]:
    """Return a context that gives a scripted server in a process of its own, and its URL."""

    @contextmanager
    def started(drain_timeout: float) -> Iterator[tuple[subprocess.Popen[str], str]]:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.serve_scripted",
                str(tmp_path),
                str(drain_timeout),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            assert server.stdout is not None
            yield server, server.stdout.readline().strip()
        finally:
            server.kill()
            server.communicate()

    return started  # type: ignore[return-value]


def in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Start work in a thread; return a function that waits for its result."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(30)
        return found[0]

    return result


def test_sigterm_lets_running_answers_end(process: Any) -> None:
    with process(30) as (server, url):
        words = streamed(url, {**HI, "seed": 100})
        next(words)
        server.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=url) as client:
            assert wait_for(lambda: client.get("/health").status_code == 503)
            refused = client.post(CHAT, json=HI)
        *_, last, done = words
        assert server.wait(20) == 0
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "10"
    assert refused.json()["error"]["code"] == "shutting_down"
    assert last["choices"][0]["finish_reason"] == "stop"
    assert done == "[DONE]"


def test_sigterm_cuts_answers_that_do_not_end_in_time(process: Any) -> None:
    with process(0.3) as (server, url):
        words = streamed(url, HI)
        next(words)
        waiting = in_background(lambda: httpx.post(url + CHAT, json=HI, timeout=30))
        time.sleep(0.1)
        server.send_signal(signal.SIGTERM)
        *_, last, done = words
        assert server.wait(20) == 0
    assert last["error"]["code"] == "shutting_down"
    assert done == "[DONE]"
    assert waiting().status_code == 503


def test_a_second_signal_ends_at_once(process: Any) -> None:
    with process(60) as (server, url):
        words = streamed(url, HI)
        next(words)
        server.send_signal(signal.SIGINT)
        with httpx.Client(base_url=url) as client:
            assert wait_for(lambda: client.get("/health").status_code == 503)
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 143
