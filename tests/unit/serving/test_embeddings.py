"""Texts as vectors: OpenAI's forms of asking and answering."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import openai
import pytest

from mindformers.errors import ConfigError
from mindformers.serving.settings import Limits, ServerSettings
from tests.support.serving import running, scripted_embedding, scripted_service
from tests.unit.serving.test_about import samples

URL = "/v1/embeddings"
Serve = Callable[..., Any]


def test_openais_client_reads_the_numbers_whatever_form_they_come_in(tokenizer: Any) -> None:
    service = scripted_service(tokenizer, "x")
    texts = ["Hello", "Hello world"]
    with (
        running(service) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        packed = client.embeddings.create(model="tiny", input=texts)  # base64, as it asks by itself
        plain = client.embeddings.create(model="tiny", input=texts, encoding_format="float")
    prompts = service.engine.requests[0].prompts
    assert [each.index for each in packed.data] == [0, 1]
    for answer in (packed, plain):
        for each, prompt in zip(answer.data, prompts, strict=True):
            found = np.array(each.embedding, np.float32)
            np.testing.assert_array_equal(found, scripted_embedding(prompt))
    assert (packed.object, packed.data[0].object, packed.model) == ("list", "embedding", "tiny")
    assert packed.usage.prompt_tokens == packed.usage.total_tokens == sum(map(len, prompts))


def test_base64_is_of_little_endian_float32(serve: Serve) -> None:
    client, _ = serve()
    body = {"input": [7, 8], "encoding_format": "base64"}
    (told,) = client.post(URL, json=body).json()["data"]
    found = np.frombuffer(base64.b64decode(told["embedding"]), "<f4")
    np.testing.assert_array_equal(found, scripted_embedding([7, 8]))


def test_a_text_gets_the_models_beginning_and_ids_do_not(serve: Serve, tokenizer: Any) -> None:
    client, service = serve(pooling="last", limits=Limits(request_timeout=7.0))
    begin = tokenizer.get_prefix_tokens()
    hello = [*begin, *tokenizer.encode_text("Hello")]
    for given, prompts in (
        ("Hello", [hello]),
        (["Hello", "x"], [hello, [*begin, *tokenizer.encode_text("x")]]),
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ):
        answer = client.post(URL, json={"input": given, "dimensions": 3, "user": "me"})
        assert answer.status_code == 200, answer.text
        asked = service.engine.requests[-1]
        assert (asked.prompts, asked.pooling, asked.timeout) == (prompts, "last", 7.0)
        assert [each["index"] for each in answer.json()["data"]] == list(range(len(prompts)))


SHAPES = "input: allowed: a text, texts, ids, or lists of ids, none empty"


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "input", "Field required"),
        ({"input": ""}, "input", SHAPES),
        ({"input": []}, "input", SHAPES),
        ({"input": ["a", ""]}, "input", SHAPES),
        ({"input": [[1], []]}, "input", SHAPES),
        ({"input": [1, "a"]}, "input", SHAPES),
        ({"input": [1.5]}, "input", SHAPES),
        ({"input": [-1]}, "input", SHAPES),
        ({"input": {"text": "a"}}, "input", SHAPES),
        ({"input": None}, "input", SHAPES),
        ({"input": ["a"] * 5}, "input", "input: 5 inputs; a request may have 4"),
        ({"input": ["a", "word " * 600]}, "input", "tokens; the model holds 512"),
        ({"input": [[1], [999999]]}, "input", "input 1: id 999999; allowed: 0 to"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "a", "dimensions": 2}, "dimensions", "this model's embeddings have 3"),
        ({"input": "a", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "dimension": 3}, "dimension", "did you mean 'dimensions'"),
        ({"input": "a", "model": 7}, "model", "valid string"),
    ],
)
def test_what_cannot_be_embedded_is_refused(
    serve: Serve, body: dict[str, Any], param: str, message: str
) -> None:
    client, service = serve(limits=Limits(max_inputs=4))
    answer = client.post(URL, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert message in error["message"]
    assert service.engine.requests == []


def test_an_input_that_is_too_long_has_openais_code(serve: Serve) -> None:
    client, _ = serve()
    error = client.post(URL, json={"input": [1] * 513}).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert client.post(URL, json={"input": [1] * 512}).status_code == 200


def test_another_model_and_a_full_queue_are_told_as_elsewhere(serve: Serve) -> None:
    client, _ = serve(room=0)
    assert client.post(URL, json={"input": "a", "model": "other"}).status_code == 404
    busy = client.post(URL, json={"input": "a"})
    assert (busy.status_code, busy.headers["retry-after"]) == (429, "3")


def test_embeddings_are_counted_and_are_no_first_token(serve: Serve) -> None:
    client, _ = serve()
    client.post(URL, json={"input": ["a", "b"]})
    client.post(URL, json={"input": ""})
    found = samples(client)
    assert found["mindformers_requests_total", URL, "200"] == 1
    assert found["mindformers_requests_total", URL, "400"] == 1
    assert found["mindformers_first_token_seconds_count",] == 0


def test_a_server_has_no_pooling_of_another_name() -> None:
    with pytest.raises(ConfigError, match="--pooling: found 'max'; allowed: mean, last"):
        ServerSettings(pooling="max")
