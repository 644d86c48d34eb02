"""Bad prompts and settings, broken models, split characters: one clear line, never nonsense."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mindformers.errors import GenerationError
from mindformers.generation.config import GenerationConfig
from mindformers.generation.engine import generate
from mindformers.generation.streamer import TextIteratorStreamer
from tests.support.generation import (
    END,
    ByteTokenizer,
    FakeRunner,
    chain,
    fresh_warnings,
    history_logits,
    script,
)

NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    fresh_warnings(monkeypatch)


def run(logits=None, prompts=((1,),), vocab_size=10, max_length=8, **settings):
    runner = FakeRunner(logits or chain((1, 2), (2, 3)), vocab_size, max_length)
    given = {"eos_token_id": END, "max_new_tokens": 4, **settings}
    return generate(runner, [list(row) for row in prompts], GenerationConfig(**given), seed=1)


# --- prompts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[1] * 8], "prompt 0: has 8 tokens and leaves no room .* the model holds 8 in all"),
        ([[1], [1] * 99], "prompt 1: has 99 tokens .* holds 8 in all; shorten the prompt"),
        ([[]], "prompt 0: is empty"),
        ([], "prompt 0: is empty"),
        ([[1, -1]], "prompt 0: id -1 at place 1; allowed: 0 to 9"),
        ([[10]], "prompt 0: id 10 at place 0; allowed: 0 to 9; use the tokenizer of this model"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_one_clear_line(prompts, message):
    with pytest.raises(GenerationError, match=message) as caught:
        run(prompts=prompts)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_one_token_and_a_prompt_one_below_the_limit_work():
    assert run(prompts=[[1]]).sequences[0].tolist() == [1, 2, 3, END]
    output = run(prompts=[[1] * 7])
    assert (output.num_generated, output.finish_reasons) == ([1], ["length"])


def test_a_prompt_of_control_tokens_only_works():
    assert run(prompts=[[END, END]]).sequences[0].tolist() == [END, END, END]


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("temperature", -1, r"a finite number, 0 \(take the likeliest token\) or above"),
        ("temperature", NAN, "a finite number"),
        ("temperature", INF, "a finite number"),
        ("temperature", "0.8", "a finite number"),
        ("temperature", True, "a finite number"),
        ("top_p", 1.01, r"0 \(keep one token\) to 1 \(off\)"),
        ("top_p", -0.1, "0 "),
        ("top_p", NAN, "0 "),
        ("top_k", -1, r"0 \(off\) or a whole number"),
        ("top_k", 2.5, "0 "),
        ("repetition_penalty", 0, "a finite number above 0"),
        ("repetition_penalty", -1.0, "above 0"),
        ("num_beams", 0, "a whole number, 1 or above"),
        ("num_return_sequences", 0, "a whole number, 1 or above"),
        ("length_penalty", NAN, "a finite number"),
        ("early_stopping", "always", 'true, false or "never"'),
        ("min_p", 1.5, r"0 \(off\) to 1"),
        ("presence_penalty", INF, "a finite number"),
        ("frequency_penalty", "1", "a finite number"),
        ("logit_bias", {-1: 1.0}, "token ids, each 0 or above"),
        ("logit_bias", [1, 2], "token ids, each 0 or above"),
        ("logit_bias", {"a": 1}, "token ids, each 0 or above"),
        ("bad_words_ids", [[]], "a list of lists of token ids, none empty"),
        ("bad_words_ids", [1], "a list of lists of token ids, none empty"),
        ("max_new_tokens", 0, "null or a whole number, 1 or above"),
        ("max_new_tokens", -1, "1 or above"),
        ("max_new_tokens", 1e12, "a whole number"),
        ("max_length", 0, "a whole number, 1 or above"),
        ("max_decode_length", 0, "a whole number, 1 or above"),
        ("min_length", -1, "0 or above"),
        ("min_new_tokens", -1, "0 or above"),
        ("do_sample", "true", "true or false"),
        ("do_sample", 1, "true or false"),
        ("eos_token_id", -1, "a token id or a list of them"),
        ("eos_token_id", "<|user|>", "a token id or a list of them"),
        ("eos_token_id", [1, None], "a token id or a list of them"),
        ("pad_token_id", -1, "null or a token id"),
        ("stop_strings", "", "none empty"),
        ("stop_strings", ["a", ""], "none empty"),
        ("stop_strings", [1], "a text or a list of texts"),
        ("stop_strings", 3, "a text or a list of texts"),
        ("stop_strings", [f"string {n}" for n in range(10_000)], "65536 characters in all"),
        ("parallel_decoding", True, "false"),
        ("encoder_repetition_penalty", 1.5, "1.0"),
        ("allowed_vocab_size", 0, "1 or above"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_what_is_allowed(name, value, allowed):
    with pytest.raises(GenerationError, match=f"^{name}: found .*allowed: .*{allowed}") as caught:
        GenerationConfig(**{name: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_what_is_not_available_is_named():
    with pytest.raises(
        GenerationError, match="found True, but lookahead decoding is not available"
    ):
        GenerationConfig(parallel_decoding=True)
    with pytest.raises(GenerationError, match="found 10000 stop strings of 108890 characters"):
        GenerationConfig(stop_strings=[f"string {n}" for n in range(10_000)])


@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "temperature": 0}, {"num_beams": 2}])
def test_more_answers_than_differ_are_refused(settings):
    with pytest.raises(GenerationError, match="num_return_sequences: found 3, .* one answer"):
        GenerationConfig(num_return_sequences=3, **settings)


def test_a_shortest_answer_above_the_longest_is_refused():
    with pytest.raises(GenerationError, match="min_new_tokens: found 5, above max_new_tokens 4"):
        GenerationConfig(min_new_tokens=5, max_new_tokens=4)
    with pytest.raises(GenerationError, match="min_length: found 50, above max_length 20"):
        GenerationConfig(min_length=50)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "temperature": 0},
        {"do_sample": True, "temperature": 1e-30},
        {"do_sample": True, "top_k": 1},
        {"do_sample": True, "top_p": 0},
        {"do_sample": True, "temperature": 0.0001},
        {"repetition_penalty": 1},
        {"top_k": 0, "top_p": 1},
        {"stop_strings": []},
        {"num_beams": 1},
    ],
)
def test_the_ends_of_the_ranges_give_the_greedy_answer(settings):
    assert run(**settings).sequences[0].tolist() == [1, 2, 3, END]


def test_a_huge_temperature_draws_evenly_and_a_top_k_above_the_vocabulary_keeps_all():
    output = run(
        max_length=2_001, max_new_tokens=10**12, do_sample=True, temperature=1e9, top_k=10**6,
        eos_token_id=[],
    )  # fmt: skip
    counts = np.bincount(output.sequences[0][1:], minlength=10)
    assert ((counts - 200.0) ** 2 / 200).sum() < 27.88  # 99.9 %, 9 degrees of freedom


def test_a_seed_of_a_wrong_kind_is_refused_before_the_model_runs():
    runner = FakeRunner(chain())
    with pytest.raises(GenerationError, match=r"^seed: found -1"):
        generate(runner, [[1]], GenerationConfig(), seed=-1)
    assert runner.num_released == 0


def test_stop_strings_without_a_tokenizer_are_refused():
    with pytest.raises(GenerationError, match=r"^stop_strings: .*pass tokenizer= to generate"):
        run(stop_strings="x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"generation_config.json:1: is not JSON"),
        (b"[1]", "holds a list; allowed: one JSON object"),
        (b"\xff\xfe{\x00", "is not UTF-8 text"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"temperature": -1}', "generation_config.json: temperature: found -1"),
    ],
)
def test_a_broken_generation_config_names_the_file(tmp_path, content, message):
    (tmp_path / "generation_config.json").write_bytes(content)
    with pytest.raises(GenerationError, match=message):
        GenerationConfig.from_pretrained(tmp_path)


def test_a_missing_generation_config_names_the_path(tmp_path):
    with pytest.raises(GenerationError, match=r"nowhere/generation_config.json: cannot be read"):
        GenerationConfig.from_pretrained(tmp_path / "nowhere")


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    text = json.dumps({"top_k": 3})
    (tmp_path / "generation_config.json").write_text(text, encoding="utf-8-sig")
    assert GenerationConfig.from_pretrained(tmp_path).top_k == 3


# --- logits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, NAN, 0, 0], "prompt 0, answer token 1: 1 of 4 logits are NaN"),
        ([NAN] * 4, "4 of 4 logits are NaN"),
        ([-INF] * 4, "all 4 logits are -inf, so no token can be chosen"),
        ([0, INF, INF, 0], r"2 of 4 logits are \+inf"),
    ],
)
def test_logits_that_allow_no_choice_are_an_error_and_not_token_0(values, message, do_sample):
    row = np.array(values, np.float32)
    with pytest.raises(GenerationError, match=f"{message}.*check the weights"):
        run(lambda ids: row, vocab_size=4, do_sample=do_sample)


def test_the_row_and_token_that_broke_are_named():
    def logits(ids):
        bad = np.full(10, NAN, np.float32)
        return bad if len(ids) > 3 and ids[0] == 2 else chain((1, 1), (2, 2))(ids)

    with pytest.raises(
        GenerationError, match=r"^prompt 1, answer token 4: 10 of 10 logits are NaN"
    ):
        run(logits, prompts=[[1], [2]])


def test_rules_that_forbid_everything_are_an_error():
    with pytest.raises(GenerationError, match="all 10 logits are -inf"):
        generate(FakeRunner(chain()), [[1]], GenerationConfig(),
                 logits_processors=[lambda scores, ids: scores - INF])  # fmt: skip


def test_padding_ids_of_the_head_are_never_drawn():
    logits = np.zeros(40, np.float32)
    logits[30:] = 50  # a head's rows without a token may hold anything
    output = run(lambda ids: logits, vocab_size=40, max_length=500, max_new_tokens=400,
                 do_sample=True, top_k=0, eos_token_id=[], allowed_vocab_size=30)  # fmt: skip
    assert output.sequences[0].max() == 29


# --- streams and batches ----------------------------------------------------------------------


@pytest.mark.parametrize("text", ["簌簌", "👩‍👩‍👧‍👦!", "e\u0301é", "𝄞"])
def test_a_stream_split_inside_every_character_shows_no_replacement_mark(text):
    tokenizer = ByteTokenizer()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    settings = GenerationConfig(max_new_tokens=len(text.encode()))
    generate(FakeRunner(script(*text.encode()), 300), [[1]], settings, streamer=streamer)
    pieces = list(streamer)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_answer_cut_inside_a_character_shows_the_whole_ones_only():
    streamer = TextIteratorStreamer(ByteTokenizer(), skip_prompt=True)
    settings = GenerationConfig(max_new_tokens=5)
    generate(FakeRunner(script(*"好吧".encode()), 300), [[1]], settings, streamer=streamer)
    assert list(streamer) == ["好"]


@pytest.mark.parametrize("split", range(1, 8))
def test_no_part_of_a_stop_string_leaks_however_it_is_split(split):
    text = "yes\nUser"
    tokenizer = ByteTokenizer(pieces=[text[:split], text[split:]])
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    settings = GenerationConfig(max_new_tokens=9, stop_strings=["\nUser"])
    output = generate(FakeRunner(script(256, 257, 65), 300), [[1]], settings,
                      tokenizer=tokenizer, streamer=streamer)  # fmt: skip
    assert "".join(streamer) == "yes"
    assert (output.texts, output.finish_reasons) == (["yes"], ["stop_string"])


def test_the_streams_reader_gets_the_error_of_a_bad_prompt():
    streamer = TextIteratorStreamer(ByteTokenizer(), timeout=5)
    with pytest.raises(GenerationError):
        generate(FakeRunner(chain()), [[]], GenerationConfig(), streamer=streamer)
    with pytest.raises(GenerationError, match="prompt 0: is empty"):
        list(streamer)


def test_rows_of_unequal_length_are_each_what_they_are_alone():
    prompts = [[1], [2, 3, 4, 5, 6], [7, 8]]
    together = run(history_logits(10), prompts).sequences
    for row, prompt in enumerate(prompts):
        np.testing.assert_array_equal(together[row], run(history_logits(10), [prompt]).sequences[0])
