"""Keys and hosts."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mindformers.errors import ConfigError
from mindformers.serving.auth import ApiKeys, check_host, read_keys
from mindformers.serving.errors import ApiError


def test_keys_come_from_flags_files_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# for the phone\nphone-1\n\n  laptop-2  \nflag-0\n", encoding="utf-8")
    file.chmod(0o600)
    keys = read_keys(["flag-0"], [file], {"MINDFORMERS_API_KEY": "env-3", "OTHER": "x"})
    assert keys == ("flag-0", "phone-1", "laptop-2", "env-3")


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "new\nline"])
def test_what_no_header_can_hold_is_no_key(key: str) -> None:
    with pytest.raises(ConfigError, match="^--api_key: a key is empty or holds") as caught:
        read_keys([key], [], {})
    assert not key or key not in str(caught.value)


def test_a_file_without_keys_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="keys: holds no key; allowed: one key a line"):
        read_keys([], [tmp_path / "keys"], {})


def test_a_file_that_others_can_read_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mindformers"), "propagate", True)
    file = tmp_path / "keys"
    file.write_text("phone-1\n", encoding="utf-8")
    file.chmod(0o644)
    read_keys([], [file], {})
    assert "others of this machine can read the keys; chmod 600 it" in caplog.text
    assert "phone-1" not in caplog.text


@pytest.mark.parametrize("header", [b"Bearer one", b"bearer two", b"Bearer  two "])
def test_each_key_opens(header: bytes) -> None:
    ApiKeys(["one", "two"]).check(header)


@pytest.mark.parametrize(
    "header", [b"", b"one", b"Basic one", b"Bearer", b"Bearer three", b"Bearer on", b"Bearer \xff"]
)
def test_anything_else_does_not(header: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        ApiKeys(["one", "two"]).check(header)
    assert caught.value.status == 401
    assert caught.value.headers == {"www-authenticate": "Bearer"}


def test_the_time_of_a_check_does_not_depend_on_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def noted(found: bytes, wanted: bytes) -> bool:
        compared.append((found, wanted))
        return compare(found, wanted)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    keys = ApiKeys(["one", "two"])
    for header in (b"Bearer one", b"Bearer two", b"Bearer t", b"Bearer " + b"t" * 1000):
        with suppress(ApiError):
            keys.check(header)
    assert len(compared) == 8  # all keys each time, whichever is right
    assert {len(each) for pair in compared for each in pair} == {
        32
    }  # by hashes, however long a key


def test_without_keys_everybody_gets_in() -> None:
    ApiKeys([]).check(b"")
    ApiKeys([]).check(b"Bearer whatever")


@pytest.mark.parametrize(
    "host",
    [b"localhost", b"localhost:8000", b"127.0.0.1:80", b"[::1]:8000", b"10.0.0.7", b"a.localhost"],
)
def test_hosts_that_name_this_machine_pass(host: bytes) -> None:
    check_host(host)


@pytest.mark.parametrize(
    "host", [b"", b"evil.example", b"127.0.0.1.evil.example", b"localhost.evil"]
)
def test_other_hosts_do_not(host: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        check_host(host)
    assert caught.value.status == 403


def test_a_server_without_a_key_does_not_answer_to_another_name(serve: Callable[..., Any]) -> None:
    client, _ = serve()
    assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    client, _ = serve(api_keys=("one",))
    headers = {"host": "models.example", "authorization": "Bearer one"}
    assert client.get("/v1/models", headers=headers).status_code == 200


def test_health_needs_no_key_and_all_else_does(serve: Callable[..., Any]) -> None:
    client, _ = serve(api_keys=("one",))
    assert client.get("/health").json() == {"status": "ok"}
    for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
        assert client.get(path).status_code == 401, path
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/v1/embeddings"):
        assert client.post(path, json={}).status_code == 401, path


def test_pages_elsewhere_may_call_only_where_they_are_named(serve: Callable[..., Any]) -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "POST",
             "access-control-request-headers": "authorization,content-type"}  # fmt: skip
    client, _ = serve()
    assert "access-control-allow-origin" not in client.options("/v1/models", headers=asked).headers
    client, _ = serve(api_keys=("one",), cors_origins=("https://a.example",))
    allowed = client.options("/v1/chat/completions", headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-credentials" not in allowed.headers
    other = client.options("/v1/models", headers={**asked, "origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers
    refused = client.get("/v1/models", headers={"origin": "https://a.example"})
    assert refused.status_code == 401  # and the page can read why
    assert refused.headers["access-control-allow-origin"] == "https://a.example"
