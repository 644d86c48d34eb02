"""The load that servers are measured under, and the vocabulary they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.serve_client import load, prompt, quantile
from benchmarks.serve_files import SPECIAL, served_directory, token_texts
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from tests.support.serving import running, scripted_service, tiny_tokenizer


def test_a_text_of_the_vocabulary_has_as_many_tokens_as_bytes(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    folder = served_directory(tmp_path / "small", 4096)
    tokenizer = ChatGLM4Tokenizer(str(folder / "tokenizer.model"))
    assert len(tokenizer) == 4096
    assert len(set(token_texts(32000))) == 32000 - SPECIAL
    text = prompt(7919, 50)
    assert len(text) == 50
    assert tokenizer.encode_text(text) == list(text.encode())
    assert tokenizer.decode([256, 300]).isalpha()


def test_prompts_begin_differently() -> None:
    assert len({prompt(number, 6) for number in range(120)}) == 120


def test_a_load_counts_what_comes(tmp_path: Path) -> None:
    def script(request: Any, index: int) -> list[str]:
        return ["ab", "cd", "ef"]

    service = scripted_service(tiny_tokenizer(tmp_path), script, room=5)
    with running(service) as url:
        port = int(url.rsplit(":", 1)[1])
        figures = load(port, 4, requests=2, length=20, new=8)
    assert (figures["streams"], figures["requests"], figures["errors"]) == (4, 8, 0)
    assert figures["value"] > 0
    assert 0 < figures["first_ms_p50"] <= figures["first_ms_p99"]
    assert {request.config.max_new_tokens for request in service.engine.requests} == {8}


def test_a_load_tells_what_failed(tmp_path: Path) -> None:
    service = scripted_service(tiny_tokenizer(tmp_path), "x", room=0)
    with running(service) as url:
        figures = load(int(url.rsplit(":", 1)[1]), 2, requests=1, length=20, new=8)
    assert (figures["value"], figures["errors"]) == (0, 2)
    assert figures["error"].startswith("429 ")


def test_quantiles() -> None:
    assert quantile([], 50) is None
    assert quantile([3.0], 99) == 3.0
    assert quantile([float(n) for n in range(101)], 50) == 50.0
    assert quantile([float(n) for n in range(101)], 99) == 99.0
