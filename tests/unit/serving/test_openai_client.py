"""The server as OpenAI's own client sees it, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from mindformers.errors import FormError, GenerationError
from mindformers.generation.request import Chunk
from mindformers.serving.service import Service
from tests.support.serving import running, scripted_service

HI = [{"role": "user", "content": "Hello"}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]
Talk = Callable[..., Any]


@pytest.fixture
def talk(tokenizer: Any) -> Talk:
    """Return a context that gives a client of a scripted server, and its service."""

    @contextmanager
    def opened(script: Any, key: str = "none", **settings: Any) -> Iterator[tuple[Any, Service]]:
        service = scripted_service(tokenizer, script, **settings)
        with running(service) as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
            with client:
                yield client, service

    return opened


def pieces(request: Any, index: int) -> list[str]:
    return ["\nHel", "lo", " 世界", f" {index}" if index else ""]


def test_an_answer_has_text_reason_usage_and_name(talk: Talk) -> None:
    with talk(pieces) as (client, service):
        answer = client.chat.completions.create(model="tiny", messages=HI)
        wanted = service.engine.requests[0]
    assert answer.object == "chat.completion"
    assert answer.model == "tiny"
    assert answer.id.startswith("chatcmpl-")
    message = answer.choices[0].message
    assert (message.role, message.content, message.tool_calls) == ("assistant", "Hello 世界", None)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == len(wanted.prompt)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


def test_the_model_reads_what_the_chat_template_makes_of_the_messages(
    talk: Talk, tokenizer: Any
) -> None:
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
    ]
    with talk("Hi") as (client, service):
        client.chat.completions.create(model="tiny", messages=messages)
    text = tokenizer.decode(service.engine.requests[0].prompt, spaces_between_special_tokens=False)
    assert text == "[gMASK]<sop><|system|>\nBe short.<|user|>\nHello<|assistant|>"


def test_a_stream_joined_is_the_answer_of_one_piece(talk: Talk) -> None:
    options = {"include_usage": True}
    with talk(pieces) as (client, _):
        whole = client.chat.completions.create(model="tiny", messages=HI, n=2)
        stream = client.chat.completions.create(
            model="tiny", messages=HI, n=2, stream=True, stream_options=options
        )
        chunks = list(stream)
    texts, reasons = ["", ""], [[], []]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] += [choice.finish_reason] if choice.finish_reason else []
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts == ["Hello 世界", "Hello 世界 1"]
    assert reasons == [["stop"], ["stop"]]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert chunks[0].choices[0].delta.role == "assistant"


CALL = ["Let me see.", "<|assistant|>get_wea", 'ther\n{"ci', 'ty": "北京"}']


def call_script(request: Any, index: int) -> list[Any]:
    return [*CALL, Chunk(index, (), "", "tool_calls")]


def test_a_call_of_a_tool_is_told_whole(talk: Talk) -> None:
    with talk(call_script) as (client, service):
        answer = client.chat.completions.create(model="tiny", messages=HI, tools=TOOLS)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    call = choice.message.tool_calls[0]
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "北京"}
    assert call.id.startswith("call_")
    assert service.engine.requests[0].shown == ("<|assistant|>",)


def test_a_call_of_a_tool_comes_in_pieces(talk: Talk) -> None:
    with talk(call_script) as (client, _):
        stream = client.chat.completions.create(model="tiny", messages=HI, tools=TOOLS, stream=True)
        deltas = [chunk.choices[0] for chunk in stream]
    calls = [call for each in deltas for call in each.delta.tool_calls or ()]
    assert [call.function.name for call in calls if call.function.name] == ["get_weather"]
    assert len({call.id for call in calls if call.id}) == 1
    assert {call.index for call in calls} == {0}
    arguments = "".join(call.function.arguments or "" for call in calls)
    assert json.loads(arguments) == {"city": "北京"}
    assert "".join(each.delta.content or "" for each in deltas) == "Let me see."
    assert deltas[-1].finish_reason == "tool_calls"


def test_the_results_of_calls_reach_the_model_in_the_order_of_the_calls(
    talk: Talk, tokenizer: Any
) -> None:
    def call(number: int, city: str) -> dict[str, Any]:
        arguments = json.dumps({"city": city})
        function = {"name": "get_weather", "arguments": arguments}
        return {"id": f"c{number}", "type": "function", "function": function}

    messages = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call(1, "A"), call(2, "B")]},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
    ]
    with talk("ok") as (client, service):
        client.chat.completions.create(model="tiny", messages=messages)
    text = tokenizer.decode(service.engine.requests[0].prompt, spaces_between_special_tokens=False)
    assert text.endswith(
        '<|assistant|>get_weather\n{"city": "A"}<|assistant|>get_weather\n{"city": "B"}'
        "<|observation|>\none<|observation|>\ntwo<|assistant|>"
    )


def test_a_tool_that_has_to_be_called_holds_the_answer_to_it(talk: Talk, tokenizer: Any) -> None:
    name = {"type": "function", "function": {"name": "get_weather"}}
    with talk("x") as (client, service):
        for choice in ("required", name):
            client.chat.completions.create(
                model="tiny", messages=HI, tools=TOOLS, tool_choice=choice
            )
        client.chat.completions.create(model="tiny", messages=HI, tools=TOOLS, tool_choice="none")
        strict = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
        client.chat.completions.create(model="tiny", messages=HI, tools=strict)
        client.chat.completions.create(model="tiny", messages=HI, tools=TOOLS)
    required, named, none, strict, free = service.engine.requests
    for request in (required, named):
        allowed = request.constraint().allowed()
        assert allowed[tokenizer.encode_text("g")[0]]
        assert not allowed[tokenizer.encode_text("x")[0]]
    newline = tokenizer.encode_text("\n")[0]  # with which a plain answer begins
    assert strict.constraint().allowed()[newline]
    assert (none.constraint, free.constraint) == (None, None)
    assert "get_weather" not in tokenizer.decode(none.prompt)


def test_a_json_schema_holds_the_answer_to_it(talk: Talk, tokenizer: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    format_ = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    with talk('\n{"a": 1}') as (client, service):
        answer = client.chat.completions.create(model="tiny", messages=HI, response_format=format_)
        for more in ({}, {"tools": TOOLS}):
            client.chat.completions.create(
                model="tiny", messages=HI, response_format={"type": "json_object"}, **more
            )
    assert json.loads(answer.choices[0].message.content) == {"a": 1}
    for request in service.engine.requests:
        allowed = request.constraint().allowed()
        assert not allowed[tokenizer.encode_text("x")[0]]
        assert allowed[tokenizer.encode_text("{")[0]]
    assert allowed[tokenizer.encode_text("g")[0]]  # with tools a call may begin as well


def test_log_probabilities_are_told_with_the_likeliest_tokens(talk: Talk) -> None:
    with talk("Hello") as (client, _):
        answer = client.chat.completions.create(
            model="tiny", messages=HI, logprobs=True, top_logprobs=2
        )
        chunks = list(
            client.chat.completions.create(
                model="tiny", messages=HI, logprobs=True, top_logprobs=2, stream=True
            )
        )
    told = answer.choices[0].logprobs.content
    assert "".join(each.token for each in told) == "Hello"
    assert [each.logprob for each in told] == [-0.5] * len(told)
    assert [top.logprob for top in told[0].top_logprobs] == [-1.0, -2.0]
    assert bytes(told[0].bytes).decode() == told[0].token
    streamed = [
        each
        for chunk in chunks
        if chunk.choices[0].logprobs
        for each in chunk.choices[0].logprobs.content
    ]
    assert streamed == told


def test_texts_are_continued(talk: Talk, tokenizer: Any) -> None:
    def script(request: Any, index: int) -> list[str]:
        return [f" {len(request.prompt)}", f"-{index}"]

    with talk(script) as (client, _):
        answer = client.completions.create(model="tiny", prompt=["one", "Hello world"], n=2)
        ids = client.completions.create(model="tiny", prompt=[7, 8, 9], echo=True)
        stream = client.completions.create(
            model="tiny", prompt=["one", "two"], stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    one, two = (2 + len(tokenizer.encode_text(text)) for text in ("one", "Hello world"))
    assert [choice.text for choice in answer.choices] == [
        f" {one}-0", f" {one}-1", f" {two}-0", f" {two}-1",
    ]  # fmt: skip
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert ids.choices[0].text == "\x07\x08\x09 3-0"
    texts = ["", ""]
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [f" {one}-0", f" {one}-0"]
    assert chunks[-1].usage.prompt_tokens == 2 * one


def test_models_are_listed(talk: Talk) -> None:
    with talk("x") as (client, _):
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").owned_by == "mindformers"
        with pytest.raises(openai.NotFoundError, match="no model 'gpt-4o' here"):
            client.models.retrieve("gpt-4o")
        with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
            client.chat.completions.create(model="gpt-4o", messages=HI)


def test_a_wrong_field_is_an_error_that_names_it(talk: Talk) -> None:
    with talk("x") as (client, _):
        for body, message in (
            ({"temprature": 1}, "did you mean 'temperature'"),
            ({"chat_template": "{{ 1 }}"}, "the server's own chat template"),
            ({"chat_template_kwargs": {"x": 1}}, "the server's own chat template"),
        ):
            with pytest.raises(openai.BadRequestError, match=message) as caught:
                client.chat.completions.create(model="tiny", messages=HI, extra_body=body)
            assert caught.value.param == next(iter(body))


def test_a_key_is_needed_where_there_is_one(talk: Talk) -> None:
    with talk("x", key="sesame-open", api_keys=("sesame-open",)) as (client, service):
        assert client.models.list().data[0].id == "tiny"
        with pytest.raises(openai.AuthenticationError, match="the API key is wrong"):
            client.with_options(api_key="sesame").models.list()
        with pytest.raises(openai.AuthenticationError, match="wrong"):
            client.with_options(api_key="sesame").chat.completions.create(model="tiny", messages=HI)
        assert service.engine.requests == []


def test_an_engine_that_is_busy_says_when_to_come_again(talk: Talk) -> None:
    with (
        talk("x", room=0) as (client, _),
        pytest.raises(openai.RateLimitError, match="too many requests") as caught,
    ):
        client.chat.completions.create(model="tiny", messages=HI)
    assert caught.value.response.headers["retry-after"] == "3"


def test_a_request_that_fails_in_the_model_fails_alone(talk: Talk) -> None:
    def script(request: Any, index: int) -> list[Any]:
        return ["\nfi", "ne"] if request.seed != 13 else ["half", GenerationError("no logits")]

    with talk(script) as (client, _):
        with pytest.raises(openai.InternalServerError, match="the request failed: no logits"):
            client.chat.completions.create(model="tiny", messages=HI, seed=13)
        stream = client.chat.completions.create(model="tiny", messages=HI, seed=13, stream=True)
        with pytest.raises(openai.APIError, match="the request failed: no logits"):
            list(stream)
        answer = client.chat.completions.create(model="tiny", messages=HI)
    assert answer.choices[0].message.content == "fine"


def test_an_answer_whose_schema_becomes_too_large_on_the_way_is_the_requests_fault(
    talk: Talk,
) -> None:
    error = FormError("no answer can be held to it", fix="simplify the schema")
    with talk(lambda *_: ["{", error]) as (client, _):
        with pytest.raises(openai.BadRequestError, match="simplify the schema"):
            client.chat.completions.create(model="tiny", messages=HI)
        stream = client.chat.completions.create(model="tiny", messages=HI, stream=True)
        with pytest.raises(openai.APIError, match="simplify the schema") as caught:
            list(stream)
    assert caught.value.type == "invalid_request_error"
