"""What a text costs, and what ids say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def test_a_text_and_its_ids(serve: Callable[..., Any], tokenizer: Any) -> None:
    client, _ = serve()
    ids = client.post("/tokenize", json={"prompt": "Hello 世界"}).json()
    plain = client.post("/tokenize", json={"prompt": "Hello 世界", "add_special_tokens": False})
    assert plain.json()["tokens"] == tokenizer.encode_text("Hello 世界")
    assert ids["tokens"] == tokenizer.get_prefix_tokens() + plain.json()["tokens"]
    assert (ids["count"], ids["max_model_len"]) == (len(ids["tokens"]), 512)
    text = client.post("/detokenize", json={"tokens": ids["tokens"]}).json()
    assert text == {"prompt": "[gMASK]<sop>Hello 世界"}


def test_a_conversation_costs_what_the_model_reads_of_it(serve: Callable[..., Any]) -> None:
    client, service = serve()
    body = {
        "messages": [{"role": "user", "content": "<|user|>"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    }
    ids = client.post("/tokenize", json=body).json()["tokens"]
    client.post("/v1/chat/completions", json=body)
    assert service.engine.requests[0].prompt == ids


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/tokenize", {}, "give prompt or messages, one of them"),
        (
            "/tokenize",
            {"prompt": "a", "messages": [{"role": "user", "content": "b"}]},
            "one of them",
        ),
        ("/tokenize", {"messages": [{"role": "user", "content": "b"}] * 1025}, "may have 1024"),
        ("/tokenize", {"messages": [{"role": "user", "content": "b"}], "tools": [{}]}, "tools[0]"),
        ("/detokenize", {"tokens": [10**6]}, "no token has the id 1000000"),
        ("/detokenize", {"tokens": ["a"]}, "tokens.0"),
    ],
)
def test_what_has_no_ids_or_no_text_is_refused(
    serve: Callable[..., Any], path: str, body: Any, message: str
) -> None:
    client, _ = serve()
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
