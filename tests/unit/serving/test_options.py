"""From a request's fields to what the engine is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mindformers.serving.settings import Limits

HI = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"
Serve = Callable[..., Any]


def asked(serve: Serve, body: dict[str, Any], **settings: Any) -> Any:
    client, service = serve(**settings)
    answer = client.post(CHAT, json={"messages": HI, **body})
    assert answer.status_code == 200, answer.text
    return service.engine.requests[0]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {"do_sample": False}),
        ({"temperature": 0, "top_p": 0.5}, {"do_sample": False, "top_p": 1.0}),
        ({"temperature": 0.7}, {"do_sample": True, "temperature": 0.7}),
        ({"top_p": 0.5}, {"do_sample": True, "top_p": 0.5}),
        ({"temperature": 1, "top_k": 3}, {"do_sample": True, "top_k": 3}),
        ({"temperature": 1, "top_k": 2**31 - 1}, {"top_k": 462}),  # the vocabulary's size
        ({"stop": "x"}, {"stop_strings": ["x"]}),
        ({"stop": ["x", "y"]}, {"stop_strings": ["x", "y"]}),
        ({"max_tokens": 7, "min_tokens": 2}, {"max_new_tokens": 7, "min_new_tokens": 2}),
        ({"max_completion_tokens": 5, "max_tokens": 7}, {"max_new_tokens": 5}),
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"presence_penalty": -1.5}, {"presence_penalty": -1.5}),
        ({"frequency_penalty": 0.5}, {"frequency_penalty": 0.5}),
        ({"logit_bias": {"5": -100, "6": 1.5}}, {"logit_bias": {5: -100.0, 6: 1.5}}),
    ],
)
def test_fields_become_settings(serve: Serve, body: Any, expected: dict[str, Any]) -> None:
    config = asked(serve, body).config
    assert {name: getattr(config, name) for name in expected} == expected


def test_an_answer_has_the_length_asked_for_as_far_as_it_fits(serve: Serve) -> None:
    room = 512 - len(asked(serve, {}).prompt)
    assert (
        asked(serve, {}).config.max_new_tokens == room
    )  # the default is more than the model holds
    few = Limits(default_max_tokens=9)
    assert asked(serve, {}, limits=few).config.max_new_tokens == 9
    assert asked(serve, {"max_tokens": 10}, limits=few).config.max_new_tokens == 10
    assert asked(serve, {"max_tokens": 2**31 - 1}).config.max_new_tokens == room


def test_seeds_of_either_sign_are_taken(serve: Serve) -> None:
    assert asked(serve, {"seed": 5}).seed == 5
    assert asked(serve, {"seed": -1}).seed == 2**64 - 1
    assert asked(serve, {}).seed is None


def test_answers_and_log_probabilities_are_asked_for(serve: Serve) -> None:
    request = asked(serve, {"n": 3, "logprobs": True, "top_logprobs": 2})
    assert (request.num_answers, request.logprobs) == (3, 2)
    assert asked(serve, {"logprobs": True}).logprobs == 0
    assert asked(serve, {}).logprobs is None


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"n": 17}, "n", "n: 17 answers; a request may have 16"),
        ({"stop": ["x"] * 17}, "stop", "stop: 17 strings; a request may have 16"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "logit_bias: 'x' is no token id; allowed: 0 to"),
        ({"logit_bias": {"999999": 1}}, "logit_bias", "'999999' is no token id"),
        ({"min_tokens": 9, "max_tokens": 8}, None, "found 9, above max_new_tokens 8"),
        ({"messages": HI * 3}, "messages", "messages: 3; a request may have 2"),
        ({"top_logprobs": 1}, "top_logprobs", "needs logprobs: true"),
        ({"stream_options": {}}, "stream_options", "needs stream: true"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, None, "the model holds 512"),
        ({"messages": [{"role": "tool"}]}, "messages.0", "content is missing"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    serve: Serve, body: dict[str, Any], param: str | None, message: str
) -> None:
    client, service = serve(limits=Limits(max_messages=2))
    answer = client.post(CHAT, json={"messages": HI, **body})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert message in error["message"]
    assert param is None or error["param"] == param
    assert service.engine.requests == []


@pytest.mark.parametrize(
    "name",
    ["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"],
)
def test_fields_that_only_keep_accounts_are_taken(serve: Serve, name: str) -> None:
    value: Any = {"metadata": {"a": "b"}, "store": True}.get(name, "auto")
    asked(serve, {name: value})


def test_what_clients_send_back_of_an_answer_is_taken(serve: Serve) -> None:
    echoed = {
        "role": "assistant", "content": "Hi", "refusal": None, "annotations": [], "audio": None,
        "function_call": None, "tool_calls": None,
    }  # fmt: skip
    asked(serve, {"messages": [*HI, echoed, *HI]})
