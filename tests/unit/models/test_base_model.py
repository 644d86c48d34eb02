"""Generation through a network: padding, seeds, lengths, chat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindformers import AutoModel, AutoTokenizer, TextIteratorStreamer
from mindformers.errors import GenerationError
from mindformers.generation.config import GenerationConfig
from tests.support.model_dir import write_model_dir


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    from mindformers.parallel.runtime import start_runtime

    start_runtime(device_target="CPU", mode=1)
    folder: Path = write_model_dir(tmp_path_factory.mktemp("model"))
    return AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


PROMPTS = [[11, 12, 13, 14, 15, 16, 17], [21, 22], [31, 32, 33, 34]]


def test_a_batch_of_unequal_prompts_equals_each_alone(model) -> None:
    network, _ = model
    together = network.generate(PROMPTS, max_new_tokens=20, eos_token_id=[])
    for prompt, found in zip(PROMPTS, together, strict=True):
        assert (
            found.tolist()
            == network.generate([prompt], max_new_tokens=20, eos_token_id=[])[0].tolist()
        )


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_arrays_mean_the_same_as_lists(model, side: str) -> None:
    network, tokenizer = model
    width, pad = max(map(len, PROMPTS)), tokenizer.pad_token_id
    rows = [
        ([pad] * (width - len(p)) + p) if side == "left" else (p + [pad] * (width - len(p)))
        for p in PROMPTS
    ]
    for padded, listed in zip(
        network.generate(np.array(rows), max_new_tokens=6),
        network.generate(PROMPTS, max_new_tokens=6),
        strict=True,
    ):
        assert padded.tolist() == listed.tolist()


def test_a_seed_repeats_a_draw_and_leaves_numpys_own_state_alone(model) -> None:
    network, _ = model
    settings = {
        "do_sample": True,
        "temperature": 1.5,
        "top_k": 0,
        "max_new_tokens": 12,
        "eos_token_id": [],
    }
    state = np.random.get_state()[1].copy()
    first = network.generate(PROMPTS, seed=2**40, **settings)
    again = network.generate(PROMPTS, seed=2**40, **settings)
    other = network.generate(PROMPTS, seed=3, **settings)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert np.array_equal(np.random.get_state()[1], state)


def test_an_eos_ends_a_row_and_is_kept(model) -> None:
    network, _ = model
    free = network.generate([PROMPTS[0]], max_new_tokens=10, eos_token_id=[])[0]
    third = int(free[len(PROMPTS[0]) + 2])
    first = free[len(PROMPTS[0]) :].tolist().index(third)
    ended = network.generate([PROMPTS[0]], max_new_tokens=10, eos_token_id=third)[0]
    assert ended.tolist() == free[: len(PROMPTS[0]) + first + 1].tolist()


def test_ids_without_a_token_are_never_drawn(model) -> None:
    network, tokenizer = model
    assert network.config.num_used_tokens == len(tokenizer) < network.config.vocab_size
    output = network.generate(
        PROMPTS,
        do_sample=True,
        temperature=50.0,
        top_k=0,
        max_new_tokens=60,
        eos_token_id=[],
        seed=1,
    )
    assert max(int(row.max()) for row in output) < len(tokenizer)


def test_without_any_length_an_answer_may_fill_the_model(model) -> None:
    network, _ = model
    output = network.generate([PROMPTS[0]], eos_token_id=[])
    assert len(output[0]) == network.config.seq_length
    assert (
        len(network.generate([PROMPTS[0]], GenerationConfig(max_length=9, eos_token_id=[]))[0]) == 9
    )


def test_a_prompt_as_long_as_the_model_is_refused_with_both_numbers(model) -> None:
    network, _ = model
    with pytest.raises(GenerationError, match=r"96.*96"):
        network.generate([list(range(1, 97))])


def test_a_full_cache_is_refused_with_numbers(tmp_path: Path, pynative: None) -> None:
    network = AutoModel.from_pretrained(write_model_dir(tmp_path, num_blocks=3))
    with pytest.raises(
        GenerationError, match=r"cache is full.*blocks of 4 tokens.*raise num_blocks"
    ):
        network.generate([list(range(1, 40))], max_new_tokens=2)
    assert (
        len(network.generate([[1, 2, 3]], max_new_tokens=2, eos_token_id=[])[0]) == 5
    )  # and works afterwards


def test_chat_appends_to_a_copy_of_the_history_and_streams_the_same_text(model) -> None:
    network, tokenizer = model
    history = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=30)
    answer, turns = network.chat(
        tokenizer, "你好", history, instruction="be brief", streamer=streamer, max_new_tokens=12
    )
    assert len(history) == 2
    assert [t["role"] for t in turns] == ["system", "user", "assistant", "user", "assistant"]
    assert turns[-1]["content"] == answer
    # A random network ends in the middle of a character; the stream leaves that out, decode marks it.
    shown = "".join(streamer).strip()
    assert shown
    assert answer.strip().removeprefix(shown).strip("\ufffd") == ""


def test_generating_between_two_steps_leaves_training_as_it_was(model) -> None:
    network, _ = model
    network.set_train(True)
    network.generate([[1, 2, 3]], max_new_tokens=2)
    assert network.training
    network.set_train(False)
    with pytest.raises(GenerationError):
        network.generate([[-1]])
    assert not network.training
