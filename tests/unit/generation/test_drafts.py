"""Guessed tokens never change an answer: token for token, draw for draw, that of the plain loop."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mindformers.errors import GenerationError
from mindformers.generation.config import GenerationConfig
from mindformers.generation.drafts import look_up
from mindformers.generation.engine import generate
from mindformers.generation.streamer import BaseStreamer, TextStreamer
from tests.support.generation import (
    ByteTokenizer,
    FakeRunner,
    fresh_warnings,
    history_logits,
    pair_logits,
    script,
)

VOCAB = 12
PROMPTS = [[1, 2, 3, 1, 2], [4], [5, 6, 5, 6, 5, 6, 7], [1, 1, 1]]
SETTINGS = [
    {},
    {"eos_token_id": [3, 7]},
    {"eos_token_id": [3], "min_new_tokens": 9},
    {"repetition_penalty": 1.3},
    {"do_sample": True, "top_k": 4},
    {"do_sample": True, "top_k": 0, "temperature": 0.7, "top_p": 0.8, "eos_token_id": [2]},
    {"max_length": 9, "max_new_tokens": None},
]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    fresh_warnings(monkeypatch)


def run(runner, prompts=PROMPTS, seed=3, assistant=None, **settings):
    given = {"max_new_tokens": 25, "output_scores": True, **settings}
    if not given.get("do_sample"):
        seed = None
    return generate(runner, prompts, GenerationConfig(**given), seed=seed, assistant=assistant)


def same(found, wanted) -> None:
    assert [ids.tolist() for ids in found.sequences] == [ids.tolist() for ids in wanted.sequences]
    assert found.finish_reasons == wanted.finish_reasons
    assert found.num_generated == wanted.num_generated
    np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_lookup_gives_the_answers_of_the_plain_loop(seed, settings):
    logits = pair_logits(VOCAB, seed)
    wanted = run(FakeRunner(logits, VOCAB), seed=seed, **settings)
    for count, longest in ((1, 8), (3, 1), (10, 2), (10, 8)):
        runner = FakeRunner(logits, VOCAB)
        found = run(runner, seed=seed, prompt_lookup_num_tokens=count,
                    max_matching_ngram_size=longest, **settings)  # fmt: skip
        same(found, wanted)
        assert all(size <= count + 1 for call in runner.extended for size in call)
        assert runner.num_released == 1


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("other", ["itself", "like it", "strange"])
def test_an_assistant_gives_the_answers_of_the_plain_loop(other, settings):
    logits = pair_logits(VOCAB, 1)
    near = np.random.default_rng(2).normal(0, 0.6, (VOCAB, VOCAB)).astype(np.float32)
    guess = {
        "itself": logits,
        "like it": lambda ids: logits(ids) + near[ids[-1]],
        "strange": history_logits(VOCAB),
    }[other]
    wanted = run(FakeRunner(logits, VOCAB), **settings)
    for count in (1, 4, 7):
        assistant = FakeRunner(guess, VOCAB)
        found = run(
            FakeRunner(logits, VOCAB), assistant=assistant, num_assistant_tokens=count, **settings
        )
        same(found, wanted)
        assert assistant.num_released == 1
        if other == "itself":  # it draws with the same numbers, so every guess is right
            rows = zip(found.finish_reasons, found.num_accepted, found.num_drafted, strict=True)
            assert all(right == all_ for reason, right, all_ in rows if reason == "length")
            assert found.num_steps < wanted.num_steps


def test_an_assistant_reads_what_was_accepted_and_forgets_the_rest():
    logits = pair_logits(VOCAB, 5)
    assistant = FakeRunner(history_logits(VOCAB), VOCAB)
    kept = assistant.rollback

    def checked(lengths, rows):
        kept(lengths, rows)
        texts.append([list(assistant.rows[row]) for row in rows])

    texts: list[list[list[int]]] = []
    assistant.rollback = checked
    found = run(FakeRunner(logits, VOCAB), [[1, 2]], assistant=assistant, num_assistant_tokens=3)
    answer = found.sequences[0].tolist()
    assert len(texts) > 3
    for (text,) in texts:
        assert text == answer[: len(text)]


def test_a_row_that_grows_past_the_assistant_goes_on_without_guesses():
    logits = pair_logits(VOCAB, 1)
    assistant = FakeRunner(logits, VOCAB, max_length=14)
    wanted = run(FakeRunner(logits, VOCAB))
    found = run(FakeRunner(logits, VOCAB), assistant=assistant, num_assistant_tokens=4)
    same(found, wanted)
    assert 0 < found.num_drafted[1] < 14
    long = run(FakeRunner(logits, VOCAB), [[1] * 20, [1, 2]], assistant=assistant)
    same(long, run(FakeRunner(logits, VOCAB), [[1] * 20, [1, 2]]))
    assert long.num_drafted[0] == 0 < long.num_drafted[1]


def test_no_more_is_guessed_than_the_cache_has_room_for_nor_than_was_worth_it():
    logits = pair_logits(VOCAB, 1)
    runner = FakeRunner(logits, VOCAB)
    runner.free = 3
    same(run(runner, prompt_lookup_num_tokens=10), run(FakeRunner(logits, VOCAB)))
    assert max(size for call in runner.extended for size in call) == 3
    # Guesses that are never right shrink to one at a time.
    random = history_logits(3)
    runner = FakeRunner(lambda ids: random(ids), 3, 200)
    wrong = FakeRunner(lambda ids: -random(ids), 3, 200)
    run(runner, [[1]], assistant=wrong, num_assistant_tokens=6, max_new_tokens=40)
    assert [size for (size,) in runner.extended[:2]] == [7, 2]
    assert all(size == 2 for (size,) in runner.extended[1:])
    assert len(runner.extended) == 5  # after 0, 0, 2, 6 and 14 tokens, then 14 more


def test_a_user_rule_sees_every_prefix_once_and_in_order():
    def watch(seen):
        def rule(logits, ids):
            seen.append(ids[0].tolist())
            return logits - 1e-3 * len(seen)  # it may count, too

        return rule

    logits, seen = pair_logits(VOCAB, 2), ([], [])
    for texts, settings in zip(seen, ({}, {"prompt_lookup_num_tokens": 6}), strict=True):
        config = GenerationConfig(max_new_tokens=20, repetition_penalty=1.1, **settings)
        generate(
            FakeRunner(logits, VOCAB), [[1, 2, 1, 2, 1]], config, logits_processors=watch(texts)
        )
    assert seen[0] == seen[1]


class Ids(BaseStreamer):
    def __init__(self):
        self.got, self.texts = [], []

    def put(self, value):
        self.got.append(value.tolist())

    def put_text(self, text):
        self.texts.append(text)

    def end(self):
        self.texts.append(None)


@pytest.mark.parametrize("stop", ["END", "bcd", "zzz", "dEN"])
def test_a_stop_string_inside_accepted_guesses_ends_the_answer_there(stop, capsys):
    tokenizer = ByteTokenizer()
    text = "abcd abcd abcd abcd ENabcdEND abcd"
    shown = []
    for settings in ({}, {"prompt_lookup_num_tokens": 9}):
        logits, streamer = script(*text.encode(), 0), Ids()
        config = GenerationConfig(
            stop_strings=[stop], max_new_tokens=40, eos_token_id=[0], **settings
        )
        output = generate(
            FakeRunner(logits, 300), [[97]], config, tokenizer=tokenizer, streamer=streamer
        )
        ids = [token for got in streamer.got for token in got]
        again = TextStreamer(tokenizer, skip_prompt=True)
        generate(FakeRunner(logits, 300), [[97]], config, tokenizer=tokenizer, streamer=again)
        shown.append((output.sequences[0].tolist(), output.texts, output.finish_reasons, ids,
                      streamer.texts, capsys.readouterr().out))  # fmt: skip
    assert shown[0] == shown[1]
    assert stop == "zzz" or shown[0][1] == [text[: text.index(stop)]]


def test_the_streamer_gets_the_accepted_tokens_of_a_pass_at_once():
    streamer = Ids()
    table = np.eye(VOCAB, dtype=np.float32)
    logits = lambda ids: table[ids[-1] % 3 + 1]  # noqa: E731 - 1 2 3 1 2 3
    config = GenerationConfig(max_new_tokens=12, prompt_lookup_num_tokens=4)
    output = generate(FakeRunner(logits, VOCAB), [[1, 2, 3, 1, 2]], config, streamer=streamer)
    assert streamer.got == [[1, 2, 3, 1, 2], [3], [1, 2, 3, 1, 2], [3, 1, 2, 3, 1], [2]]
    assert (output.num_steps, output.num_drafted, output.num_accepted) == (3, [8], [8])


def test_the_log_says_what_guesses_gave(caplog):
    caplog.set_level("INFO", "mindformers")
    logits = pair_logits(VOCAB, 1)
    run(FakeRunner(logits, VOCAB), prompt_lookup_num_tokens=4)
    line = next(r.message for r in caplog.records if "guessed" in r.message)
    assert re.fullmatch(r"guessed tokens: \d+, of them right: \d+; passes of the model: \d+", line)


def test_draws_with_guesses_follow_the_distribution():
    # Each token depends on the one before; counted are the pairs, over many seeds.
    rows = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.25, 0.25, 0.5]])
    logits = lambda ids: np.log(rows[ids[-1]]).astype(np.float32)  # noqa: E731
    guess = lambda ids: np.log(rows[ids[-1]][::-1] + 0.1).astype(np.float32)  # noqa: E731
    config = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=2000, num_assistant_tokens=3)
    output = generate(FakeRunner(logits, 3, 3000), [[0]], config, seed=5,
                      assistant=FakeRunner(guess, 3, 3000))  # fmt: skip
    assert 0 < output.num_accepted[0] < output.num_drafted[0]
    ids = output.sequences[0]
    counts = np.zeros((3, 3))
    np.add.at(counts, (ids[:-1], ids[1:]), 1)
    expected = rows * counts.sum(1, keepdims=True)
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < 22.46  # 99.9 % of a chi-square with 6 degrees of freedom


@pytest.mark.parametrize(
    ("ids", "count", "longest", "found"),
    [
        ([1, 2, 3, 9, 1, 2], 3, 8, [3, 9, 1]),
        ([1, 2, 3, 5, 2, 4, 1, 2], 2, 8, [3, 5]),  # two tokens agree: better than the later 2
        ([1, 2, 3, 5, 2, 4, 1, 2], 2, 1, [4, 1]),
        ([7, 1, 2, 3, 8, 1, 2, 4, 9, 1, 2], 2, 2, [4, 9]),  # the latest of equals
        ([7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], 2, 3, [3, 8]),
        ([1, 2, 1, 2], 5, 8, [1, 2, 1, 2, 1]),  # a loop goes on
        ([4, 4, 4], 3, 8, [4, 4, 4]),
        ([1, 2, 3], 3, 8, []),
        ([2, 3, 2], 3, 8, []),  # one token alone says too little
        ([5], 3, 8, []),
        ([1, 2, 3, 9, 1, 2], 0, 8, []),
    ],
)  # fmt: skip
def test_a_guess_is_what_followed_the_longest_agreeing_place(ids, count, longest, found):
    assert look_up(np.array(ids, np.int32), count, longest) == found


def test_what_cannot_guess_is_refused():
    logits = pair_logits(VOCAB)
    with pytest.raises(
        GenerationError, match="assistant_model: a model of 9 ids; allowed: .* 12 ids"
    ):
        run(FakeRunner(logits, VOCAB), assistant=FakeRunner(logits, 9))
    with pytest.raises(GenerationError, match="prompt_lookup_num_tokens 3 and an assistant model"):
        run(
            FakeRunner(logits, VOCAB),
            assistant=FakeRunner(logits, VOCAB),
            prompt_lookup_num_tokens=3,
        )
    for name in ("prompt_lookup_num_tokens", "num_assistant_tokens", "max_matching_ngram_size"):
        with pytest.raises(GenerationError, match=f"{name}: found 0; allowed: .*1 or above"):
            GenerationConfig(**{name: 0})
