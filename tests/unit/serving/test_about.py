"""What a server tells of itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mindformers.serving.page import page_routes

Serve = Callable[..., Any]


def samples(client: Any) -> dict[tuple[str, ...], float]:
    text = client.get("/metrics").text
    return {
        (each.name, *each.labels.values()): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


def test_requests_and_the_engine_are_counted(serve: Serve) -> None:
    client, _ = serve(lambda *_: ["a", "b", "c"])
    for _ in range(3):
        client.post("/v1/completions", json={"prompt": "x"})
    client.post("/v1/completions", json={})
    client.get("/no/../such/path")
    found = samples(client)
    assert found["mindformers_requests_total", "/v1/completions", "200"] == 3
    assert found["mindformers_requests_total", "/v1/completions", "400"] == 1
    assert found["mindformers_requests_total", "other", "404"] == 1
    assert found["mindformers_request_seconds_count", "/v1/completions"] == 4
    assert found["mindformers_first_token_seconds_count",] == 3
    assert found["mindformers_cache_blocks",] == 8
    assert found["mindformers_drafted_tokens_total",] == 5
    assert found["mindformers_accepted_tokens_total",] == 3
    assert found["mindformers_answers_total", "stop"] == 1


def test_health_turns_when_the_server_ends(serve: Serve) -> None:
    client, service = serve()
    assert client.get("/health").status_code == 200
    service.is_stopping = True
    assert client.get("/health").status_code == 503
    answer = client.post("/v1/completions", json={"prompt": "x"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")


def test_every_answer_has_a_name_to_ask_about(serve: Serve) -> None:
    client, _ = serve()
    answers = [client.get("/health"), client.get("/nowhere"), client.post("/v1/completions")]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3


@pytest.mark.parametrize(
    "path", ["/v1/models/../../etc/passwd", "/v1/models/%2e%2e%2fetc%2fpasswd"]
)
def test_a_models_name_is_no_path(serve: Serve, path: str) -> None:
    client, _ = serve()
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_page_is_served_from_memory_under_a_strict_policy(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "js").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>", encoding="utf-8")
    (tmp_path / "js" / "main.js").write_text("1", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("not part of it", encoding="utf-8")
    assert [route.path for route in page_routes(tmp_path)] == ["/", "/index.html", "/js/main.js"]
    assert page_routes(tmp_path / "js") == []
    monkeypatch.setattr("mindformers.serving.app.page_routes", lambda: page_routes(tmp_path))
    client, _ = serve(api_keys=("one",))
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.get("/js/main.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/notes.txt").status_code == 401
    counted = client.get("/metrics", headers={"authorization": "Bearer one"}).text
    assert 'mindformers_requests_total{route="page",status="200"} 2.0' in counted
