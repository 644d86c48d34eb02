"""Other families behind the same server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mindformers.models.glm2.glm2_tokenizer import ChatGLM2Tokenizer
from mindformers.models.glm2.glm3_tokenizer import ChatGLM3Tokenizer
from mindformers.serving.app import build_app
from tests.support.sentence_pieces import write_tiny_model
from tests.support.serving import scripted_service

HI = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(params=[ChatGLM2Tokenizer, ChatGLM3Tokenizer])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[TestClient, Any, Any]:
    tokenizer = request.param(write_tiny_model(tmp_path))
    service = scripted_service(tokenizer, lambda *_: ["\n ", "Paris", " is", " fine ", "\n"])
    return TestClient(build_app(service), base_url="http://localhost"), service, tokenizer


def test_a_conversation_has_the_familys_form_and_blanks_around_an_answer_are_none_of_it(
    opened: Any,
) -> None:
    client, service, tokenizer = opened
    answer = client.post(CHAT, json={"messages": HI, "logprobs": True}).json()["choices"][0]
    assert answer["message"]["content"] == "Paris is fine"
    assert "Paris" in "".join(each["token"] for each in answer["logprobs"]["content"])
    expected = tokenizer.encode_segments(tokenizer.render(HI, add_generation_prompt=True))
    assert service.engine.requests[0].prompt == expected


def test_a_text_gets_the_familys_beginning(opened: Any) -> None:
    client, service, tokenizer = opened
    client.post("/v1/completions", json={"prompt": "Hello"})
    assert service.engine.requests[0].prompt == tokenizer("Hello")["input_ids"]


def test_a_form_that_cannot_be_held_to_is_refused(opened: Any) -> None:
    client, _, _ = opened
    body = {"messages": HI, "response_format": {"type": "json_object"}}
    answer = client.post(CHAT, json=body)
    assert answer.status_code == 400
    assert "SentencePiece" in answer.json()["error"]["message"]
