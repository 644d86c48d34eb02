"""A tiny network served by the command itself: answers are those of ``generate``, whoever else asks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from mindformers.errors import ConfigError
from mindformers.serving.serve import open_service
from mindformers.serving.settings import Limits, ServerSettings
from tests.support.compare import MODEL_FP32, assert_close
from tests.support.model_dir import write_model_dir
from tests.support.serving import raw_request, running, wait_for

ROOT = Path(__file__).resolve().parents[2]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "parameters": {
                "type": "object",
                "properties": {"word": {"type": "string", "maxLength": 4}},
                "required": ["word"],
                "additionalProperties": False,
            },
        },
    }
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mindformers.parallel.runtime import start_runtime

    start_runtime(device_target="CPU", mode=1)
    return write_model_dir(tmp_path_factory.mktemp("model"), seq_length=512)


@pytest.fixture(scope="module")
def served(model_dir: Path) -> Iterator[tuple[str, Any]]:
    settings = ServerSettings(limits=Limits(default_max_tokens=24))
    service = open_service(model_dir, settings, name="tiny", cache_tokens=4096)
    with running(service) as url:
        yield url, service


@pytest.fixture(scope="module")
def client(served: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def alone(model_dir: Path) -> Any:
    """Return a function that answers a conversation by ``chat`` of the network alone."""
    from mindformers.models.auto import AutoModel, AutoTokenizer

    network = AutoModel.from_pretrained(model_dir)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)

    def answer(question: str, **settings: Any) -> str:
        return str(network.chat(tokenizer, question, **settings)[0])

    return answer


def question(number: int) -> str:
    return f"Hello world {number}" * (1 + number % 5)


def test_answers_at_once_are_those_of_the_network_alone(client: Any, alone: Any) -> None:
    def ask(number: int) -> str:
        stream = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": question(number)}],
            max_tokens=8 + number % 3,
            temperature=0.9 if number % 2 else 0,
            seed=number,
            stream=True,
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(12)))
    for number, answer in enumerate(answers):
        drawing = {"do_sample": True, "temperature": 0.9} if number % 2 else {"do_sample": False}
        expected = alone(question(number), max_new_tokens=8 + number % 3, seed=number, **drawing)
        assert answer == expected, number


def test_beginnings_in_common_are_read_once(client: Any) -> None:
    messages = [{"role": "user", "content": "one two three and the world is a model of you " * 4}]
    first, second = (
        client.chat.completions.create(model="tiny", messages=messages, max_tokens=2)
        for _ in range(2)
    )
    assert second.usage.prompt_tokens_details.cached_tokens > 20
    assert second.choices[0].message.content == first.choices[0].message.content


def test_a_schema_and_a_tool_hold_a_network_that_knows_neither(client: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}},
              "required": ["a"], "additionalProperties": False}  # fmt: skip
    format_: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    messages: Any = [{"role": "user", "content": "Hello"}]
    whole = 0
    for seed in range(4):
        answer = client.chat.completions.create(
            model="tiny", messages=messages, response_format=format_, max_tokens=40, seed=seed,
            temperature=1,
        )  # fmt: skip
        if answer.choices[0].finish_reason == "stop":
            assert set(json.loads(answer.choices[0].message.content)) == {"a"}
            whole += 1
        call = client.chat.completions.create(
            model="tiny", messages=messages, tools=TOOLS, tool_choice="required", max_tokens=60,
            seed=seed, temperature=1, parallel_tool_calls=False,
        ).choices[0]  # fmt: skip
        assert call.message.tool_calls[0].function.name == "search"
        if call.finish_reason == "tool_calls":
            arguments = json.loads(call.message.tool_calls[0].function.arguments)
            assert len(arguments["word"]) <= 4
            whole += 1
    assert whole


def test_a_server_that_guesses_answers_alike(model_dir: Path, served: Any) -> None:
    service = open_service(model_dir, ServerSettings(prompt_lookup=7), name="tiny",
                           cache_tokens=4096)  # fmt: skip
    schema = {"type": "object", "properties": {"a": {"enum": ["one one one", "two two two"]}}}
    format_ = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    messages = [{"role": "user", "content": "one two one two one two one"}]
    asked = [
        {"messages": messages, "max_tokens": 40, "temperature": 0, "logprobs": True},
        {"messages": messages, "max_tokens": 40, "temperature": 1, "seed": 3, "n": 2},
        {"messages": messages, "max_tokens": 40, "temperature": 1, "seed": 1, "response_format": format_},
    ]  # fmt: skip
    path = "/v1/chat/completions"
    with running(service) as url:
        for body in asked:
            found, plain = (
                httpx.post(f"{each}{path}", json=body, timeout=60).json()["choices"]
                for each in (url, served[0])
            )
            for own, other in zip(found, plain, strict=True):
                assert own["message"]["content"] == other["message"]["content"]
                assert own["finish_reason"] == other["finish_reason"]
        counted = httpx.get(f"{url}/metrics").text
    drafted, accepted = (
        float(re.search(rf"^mindformers_{name}_tokens_total (\S+)", counted, re.M)[1])
        for name in ("drafted", "accepted")
    )
    assert 0 < accepted <= drafted
    assert served[1].engine.stats().drafted_tokens == 0


def test_log_probabilities_are_the_networks(client: Any) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=4,
        temperature=0, logprobs=True, top_logprobs=5,
    )  # fmt: skip
    for each in answer.choices[0].logprobs.content:
        values = [top.logprob for top in each.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert each.logprob == pytest.approx(values[0])
        assert each.token == each.top_logprobs[0].token


def test_embeddings_beside_answers_are_the_networks_own(
    client: Any, model_dir: Path, served: Any
) -> None:
    from mindspore import Tensor

    from mindformers.models.auto import AutoModel, AutoTokenizer

    texts = [question(number) for number in range(6)]

    def answer(number: int) -> str:
        return str(client.completions.create(model="tiny", prompt=texts[number], max_tokens=20))

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(answer, number) for number in range(3)]
        found = client.embeddings.create(model="tiny", input=texts)
        assert all(each.result() for each in answers)
    network, tokenizer = (kind.from_pretrained(model_dir) for kind in (AutoModel, AutoTokenizer))
    for text, each in zip(texts, found.data, strict=True):
        ids = tokenizer.build_inputs_with_special_tokens(tokenizer.encode_text(text))
        states = network.transformer(Tensor(np.array([ids], np.int32))).asnumpy()
        mean = states.astype(np.float64).mean(0)
        assert_close(each.embedding, mean / np.linalg.norm(mean), MODEL_FP32)


def test_a_client_that_leaves_its_embeddings_gives_all_blocks_back(served: Any) -> None:
    url, service = served
    content = json.dumps({"input": [[1] * 500] * 200}).encode()
    head = "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    before = service.engine.stats().finished.get("cancelled", 0)
    with raw_request(url, head.encode() + content):
        assert wait_for(lambda: service.engine.stats().running > 0)

    def is_idle() -> bool:
        stats = service.engine.stats()
        return not stats.running and not stats.waiting and stats.free_blocks == stats.blocks

    assert wait_for(is_idle, 30)
    assert service.running == 0
    assert service.engine.stats().finished["cancelled"] == before + 1


def test_clients_that_leave_give_all_their_blocks_back(served: Any) -> None:
    url, service = served
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 400, "stream": True,
            "n": 2, "min_tokens": 400}  # fmt: skip
    content = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    for _ in range(100):
        with raw_request(url, head.encode() + content) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")

    def is_idle() -> bool:
        stats = service.engine.stats()
        return not stats.running and not stats.waiting and stats.free_blocks == stats.blocks

    assert wait_for(is_idle, 30)
    assert service.running == 0
    assert service.engine.stats().finished["cancelled"] >= 90


def test_a_cache_below_one_block_is_refused(model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="--cache_tokens: found 3; allowed: 4 or more"):
        open_service(model_dir, ServerSettings(), cache_tokens=3)


def test_a_request_that_takes_too_long_is_ended(model_dir: Path) -> None:
    settings = ServerSettings(limits=Limits(request_timeout=0.05))
    service = open_service(model_dir, settings, cache_tokens=4096)
    with running(service) as url:
        body = {"prompt": "Hello", "max_tokens": 400, "min_tokens": 400, "n": 16}
        answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 504
    assert service.engine.stats().free_blocks == service.engine.stats().blocks


def test_the_command_serves_without_mindspore_and_ends_in_order(model_dir: Path) -> None:
    program = (
        "import sys; from mindformers.cli.main import main; code = main(sys.argv[1:]); "
        "print('mindspore' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", str(model_dir), "--port", "0"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MINDFORMERS_API_KEY": "sesame-open", "MINDFORMERS_BACKEND": "auto"},
    )
    lines: list[str] = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"serving (\S+) at (http://\S+); an API key is needed", line):
                break
        name, url = found.groups()
        reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
        reader.start()
        with openai.OpenAI(base_url=f"{url}/v1", api_key="sesame-open") as client:
            assert [model.id for model in client.models.list()] == [model_dir.name] == [name]
            messages: Any = [{"role": "user", "content": "Hello"}]
            assert client.chat.completions.create(model=name, messages=messages, max_tokens=3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        reader.join(10)
    finally:
        process.kill()
    assert lines[-1] == "False\n"
    assert any("ending; 0 requests run" in line for line in lines)
    assert "sesame" not in "".join(lines)
