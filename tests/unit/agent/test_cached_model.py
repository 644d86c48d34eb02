"""A model behind an engine gives the answers it gives alone, and reads what was said before once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mindformers.agent.answering import answer
from mindformers.agent.cached_model import CachedModel
from mindformers.errors import GenerationError
from mindformers.models.auto import AutoModel, AutoTokenizer
from tests.support.model_dir import write_model_dir

ASKED = [{"role": "user", "content": "Hello world, the weather in two cities"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mindformers.parallel.runtime import start_runtime

    start_runtime(device_target="CPU", mode=1)
    return write_model_dir(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def network(folder: Path) -> Any:
    """The same model once more: one that an engine drives answers nothing beside it."""
    return AutoModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def cached(folder: Path, tokenizer: Any) -> Iterator[CachedModel]:
    model = CachedModel(AutoModel.from_pretrained(folder), tokenizer)
    yield model
    model.close()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_new_tokens": 7},
        {"max_length": 40},
        {"do_sample": True, "temperature": 0.9, "top_p": 0.9, "seed": 3},
        {"repetition_penalty": 1.3},
        {"stop_strings": ["Q"]},
    ],
)
def test_the_answer_is_the_models_own(network, cached, tokenizer, settings) -> None:
    pieces: list[str] = []
    alone = answer(network, tokenizer, ASKED, **settings)
    found = answer(cached, tokenizer, ASKED, on_text=pieces.append, **settings)
    assert found.text == alone.text == "".join(pieces)
    assert found.finish_reason == alone.finish_reason
    assert found.prompt_tokens == alone.prompt_tokens
    assert found.completion_tokens == alone.completion_tokens


def test_what_was_said_before_is_not_read_again(network, cached, tokenizer) -> None:
    first = answer(cached, tokenizer, ASKED, max_new_tokens=4)
    talk = [*ASKED, {"role": "assistant", "content": "x"}, {"role": "user", "content": "and"}]
    second = answer(cached, tokenizer, talk, max_new_tokens=4)
    assert first.cached_tokens == 0
    # Whole blocks of 4: all but the last of those that the first prompt filled.
    assert first.prompt_tokens - 4 <= second.cached_tokens + second.cached_tokens % 4
    assert second.text == answer(network, tokenizer, talk, max_new_tokens=4).text


def test_guesses_change_no_answer_and_are_counted(network, cached, tokenizer) -> None:
    plain = answer(cached, tokenizer, ASKED, max_new_tokens=24)
    for model in (network, cached):
        found = answer(model, tokenizer, ASKED, max_new_tokens=24, prompt_lookup_num_tokens=5)
        assert found.text == plain.text
        assert 0 <= found.accepted_tokens <= found.drafted_tokens
        assert found.drafted_tokens > plain.drafted_tokens == 0


def test_an_answer_that_nobody_wants_ends_with_what_was_said(cached, tokenizer) -> None:
    pieces: list[str] = []
    found = answer(
        cached, tokenizer, ASKED, on_text=pieces.append, is_unwanted=lambda: bool(pieces)
    )
    assert found.finish_reason == "cancelled"
    assert found.text == "".join(pieces)
    assert answer(cached, tokenizer, ASKED, max_new_tokens=2).completion_tokens == 2


def test_a_prompt_that_cannot_be_answered_is_an_error_and_the_next_one_works(
    cached, tokenizer
) -> None:
    with pytest.raises(GenerationError, match="leaves no room for an answer"):
        answer(cached, tokenizer, [{"role": "user", "content": "hello world " * 100}])
    with pytest.raises(GenerationError, match="temperature: found -1"):
        answer(cached, tokenizer, ASKED, temperature=-1.0)
    assert answer(cached, tokenizer, ASKED, max_new_tokens=2).completion_tokens == 2
