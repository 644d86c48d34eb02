"""Texts continued as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mindformers.generation.request import Chunk
from mindformers.serving.settings import Limits

URL = "/v1/completions"
Serve = Callable[..., Any]


def test_a_text_gets_the_models_beginning_and_ids_do_not(serve: Serve, tokenizer: Any) -> None:
    client, service = serve()
    for prompt in ("Hello", [5, 6], [[5, 6], [7]]):
        assert client.post(URL, json={"prompt": prompt}).status_code == 200
    text, ids, *lists = (request.prompt for request in service.engine.requests)
    assert text == [*tokenizer.get_prefix_tokens(), *tokenizer.encode_text("Hello")]
    assert ids == [5, 6]
    assert sorted(lists) == [[5, 6], [7]]
    assert service.engine.requests[0].config.max_new_tokens == 16  # OpenAI's default


def test_text_never_becomes_a_control_token(serve: Serve, tokenizer: Any) -> None:
    client, service = serve()
    client.post(URL, json={"prompt": "<|user|>"})
    begin, end = tokenizer.get_prefix_tokens(), service.engine.requests[0].prompt[2:]
    assert service.engine.requests[0].prompt[:2] == begin
    assert not set(end) & set(tokenizer.special_tokens.values())


def test_log_probabilities_have_the_old_form(serve: Serve) -> None:
    client, _ = serve(lambda *_: ["Hello", " world"])
    body = {"prompt": "x", "logprobs": 1}
    told = client.post(URL, json=body).json()["choices"][0]["logprobs"]
    assert "".join(told["tokens"]) == "Hello world"
    assert told["token_logprobs"] == [-0.5] * len(told["tokens"])
    assert [list(top.values()) for top in told["top_logprobs"]] == [[-1.0]] * len(told["tokens"])
    starts = [sum(map(len, told["tokens"][:n])) for n in range(len(told["tokens"]))]
    assert told["text_offset"] == starts


@pytest.mark.parametrize(
    ("reason", "told"), [("stop_string", "stop"), ("tool_calls", "stop"), ("length", "length")]
)
def test_reasons_have_openais_names(serve: Serve, reason: str, told: str) -> None:
    client, _ = serve(lambda *_: ["a", Chunk(0, (), "", reason)])
    assert client.post(URL, json={"prompt": "x"}).json()["choices"][0]["finish_reason"] == told


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"prompt": "a", "suffix": "b"}, "suffix", "they do not fill one in"),
        ({"prompt": "a", "best_of": 2}, "best_of", "only as large as n"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "echo", "not together with logprobs"),
        ({"prompt": []}, "prompt", "there is none"),
        ({"prompt": [[]]}, "prompt", "the prompt has no tokens"),
        ({"prompt": ["a", 1]}, "prompt", "allowed: a text, texts, ids, or lists of ids"),
        ({"prompt": [-1]}, "prompt", "allowed: a text, texts, ids, or lists of ids"),
        ({"prompt": ["a"] * 3, "n": 2}, "n", "6 answers; a request may have 4"),
        ({}, "prompt", "prompt: Field required"),
    ],
)
def test_what_cannot_be_continued_is_refused(
    serve: Serve, body: dict[str, Any], param: str, message: str
) -> None:
    client, _ = serve(limits=Limits(max_answers=4))
    answer = client.post(URL, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert message in answer.json()["error"]["message"]
