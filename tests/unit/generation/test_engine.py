"""The token loop over models worked out by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mindformers.errors import GenerationError
from mindformers.generation.config import GenerationConfig
from mindformers.generation.engine import generate
from mindformers.generation.streamer import BaseStreamer, TextStreamer
from tests.support.generation import (
    END,
    ByteTokenizer,
    FakeRunner,
    chain,
    fresh_warnings,
    history_logits,
    script,
)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    fresh_warnings(monkeypatch)


class Ids(BaseStreamer):
    """Keeps what it gets."""

    def __init__(self):
        self.got, self.texts, self.ends = [], [], 0

    def put(self, value):
        is_batch = isinstance(value, list)
        self.got.append([ids.tolist() for ids in value] if is_batch else value.tolist())

    def put_text(self, text):
        self.texts.append(text)

    def end(self):
        self.ends += 1


def config(**settings):
    return GenerationConfig(**{"eos_token_id": END, "max_new_tokens": 8, **settings})


def lists(output):
    return [ids.tolist() for ids in output.sequences]


def test_rows_follow_their_chain_to_the_end_token_and_leave_the_batch_there():
    runner = FakeRunner(chain((1, 2), (2, 3), (4, 5), (5, 6), (6, 7)))
    output = generate(runner, [[0, 1], [3], [4]], config())
    assert lists(output) == [[0, 1, 2, 3, END], [3, END], [4, 5, 6, 7, END]]
    assert runner.decoded_rows == [[0, 2], [0, 2], [2]]
    assert output.finish_reasons == ["stop"] * 3
    assert (output.num_prompt_tokens, output.num_generated) == ([2, 1, 1], [3, 1, 4])
    assert all(ids.dtype == np.int32 for ids in output.sequences)
    assert runner.num_released == 1


def answers_of(prompts, **settings):
    runner = FakeRunner(history_logits(20), vocab_size=20)
    return lists(generate(runner, prompts, config(**settings), seed=3))


@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.7}, {"min_new_tokens": 4}])
def test_every_row_of_a_batch_is_what_it_is_alone(settings):
    prompts = [[1], [2, 3, 4, 5], [6, 7], [8, 8, 8]]
    alone = [answers_of([prompt], **settings)[0] for prompt in prompts]
    assert answers_of(prompts, **settings) == alone


def test_a_row_draws_the_same_whatever_the_other_rows_are():
    prompts = [[1], [2, 3, 4, 5], [6, 7], [8, 8, 8]]
    settings = {"do_sample": True, "top_k": 5, "temperature": 3.0}
    together = answers_of(prompts, **settings)
    for row, prompt in enumerate(prompts):
        others = [prompt if place == row else [place, 9, 9] for place in range(row + 1)]
        assert answers_of(others, **settings)[row] == together[row]


def test_a_seed_repeats_an_answer_and_rows_with_one_prompt_differ():
    settings = config(do_sample=True, top_k=0, max_new_tokens=12, eos_token_id=[])
    flat = lambda ids: np.zeros(50, np.float32)  # noqa: E731
    first = generate(FakeRunner(flat, 50), [[1]] * 3, settings, seed=2**64 - 1)
    again = generate(FakeRunner(flat, 50), [[1]] * 3, settings, seed=2**64 - 1)
    assert lists(first) == lists(again)
    assert first.seed == 2**64 - 1
    assert len({tuple(ids) for ids in lists(first)}) == 3
    other = generate(FakeRunner(flat, 50), [[1]] * 3, settings, seed=1)
    assert lists(other)[0] != lists(first)[0]


def test_several_answers_to_a_prompt_stand_side_by_side():
    settings = {"do_sample": True, "top_k": 5, "temperature": 3.0}
    prompts = [[1], [2, 3]]
    found = answers_of(prompts, num_return_sequences=2, **settings)
    assert found == answers_of([[1], [1], [2, 3], [2, 3]], **settings)
    assert found[0] != found[1]


def test_sampling_leaves_the_global_generator_alone_when_a_seed_is_given_and_greedy_always():
    for settings, seed in ((config(do_sample=True), 5), (config(), None)):
        np.random.seed(0)
        generate(FakeRunner(history_logits(10)), [[1]], settings, seed=seed)
        after = np.random.random()
        np.random.seed(0)
        assert after == np.random.random()


def test_draws_of_a_whole_call_follow_the_distribution():
    logits = np.log(np.array([0.1, 0.4, 0.3, 0.2], np.float32))
    settings = GenerationConfig(do_sample=True, top_p=0.85, max_new_tokens=2_000)
    output = generate(FakeRunner(lambda ids: logits, 4, 4_000), [[0]], settings, seed=11)
    counts = np.bincount(output.sequences[0][1:], minlength=4)
    expected = np.array([0, 4, 3, 2]) / 9 * 2_000
    assert counts[0] == 0
    statistic = ((counts[1:] - expected[1:]) ** 2 / expected[1:]).sum()
    assert statistic < 13.82  # 99.9 % of a chi-square with 2 degrees of freedom


def test_min_new_tokens_holds_the_end_token_back():
    output = generate(FakeRunner(chain((1, END))), [[1]], config(min_new_tokens=3))
    assert output.num_generated == [4]
    assert lists(output)[0][-1] == END
    assert END not in lists(output)[0][:-1]


def test_the_repetition_penalty_counts_the_prompt_and_no_padding():
    # 4 is favoured a little; it is in the prompt, so a penalty gives 5. The shorter row has no pads
    # that could be counted against 0, its likeliest token.
    table = np.zeros(10, np.float32)
    table[[4, 5]] = 1.1, 1.0
    short = np.zeros(10, np.float32)
    short[[0, 5]] = 1.1, 1.0
    runner = FakeRunner(lambda ids: table if ids[0] == 4 else short)
    output = generate(runner, [[4, 3, 3], [2]], config(max_new_tokens=1, repetition_penalty=2.0))
    assert [ids[-1] for ids in lists(output)] == [5, 0]


def test_the_length_limit_ends_an_answer_and_says_so_once(caplog):
    runner = FakeRunner(chain((1, 1), (2, 2)), max_length=5)
    for _ in range(2):
        output = generate(runner, [[1], [2, 2, 2]], config(max_new_tokens=3))
        assert lists(output) == [[1, 1, 1, 1], [2, 2, 2, 2, 2]]
    assert output.finish_reasons == ["length", "length"]
    messages = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert messages == [
        "prompt 1 of 3 tokens and max_new_tokens 3: more than the 5 tokens the model holds, so the "
        "answer is cut to 2 tokens",
        "an answer was cut at its length limit (4 tokens with the prompt), not ended by the model: "
        "raise max_new_tokens or max_length, and check eos_token_id [9]",
    ]


def test_max_length_counts_the_prompt_and_the_last_token_is_not_read_again():
    runner = FakeRunner(chain((1, 1)))
    output = generate(runner, [[1, 1, 1]], GenerationConfig(max_length=5))
    assert lists(output) == [[1] * 5]
    assert len(runner.decoded_rows) == 1


def test_one_line_tells_tokens_and_speed(caplog):
    caplog.set_level("INFO", "mindformers")
    generate(FakeRunner(chain((1, 2))), [[1], [3, 3]], config())
    line = next(r.message for r in caplog.records if r.levelname == "INFO")
    assert re.fullmatch(
        r"total time: [\d.]+ s; generated tokens: 3 tokens; generate speed: [\d.]+ tokens/s; "
        r"prompt tokens: 3 tokens; prefill time: [\d.]+ s", line)  # fmt: skip


def test_ids_without_a_token_are_never_given():
    runner = FakeRunner(lambda ids: np.arange(10, dtype=np.float32))
    output = generate(runner, [[1]], config(allowed_vocab_size=7, max_new_tokens=2))
    assert lists(output) == [[1, 6, 6]]
    tokenizer = ByteTokenizer()
    tokenizer.table = tokenizer.table[:5]
    assert lists(generate(runner, [[1]], config(max_new_tokens=1), tokenizer=tokenizer)) == [[1, 4]]


def test_an_end_token_outside_the_vocabulary_is_reported(caplog):
    generate(FakeRunner(chain((1, 2))), [[1]], config(eos_token_id=[END, 151329]))
    assert "eos_token_id [151329]: the model has 10 ids and never gives these" in caplog.text


def test_the_observation_token_finishes_as_tool_calls():
    tokenizer = ByteTokenizer(special=["<|user|>", "<|observation|>"])
    for token, reason in ((256, "stop"), (257, "tool_calls")):
        runner = FakeRunner(script(104, token), 300)
        output = generate(runner, [[1]], config(eos_token_id=[256, 257]), tokenizer=tokenizer)
        assert (output.finish_reasons, output.texts) == ([reason], None)
    output = generate(FakeRunner(chain((1, 9))), [[1]], config(tool_call_token_id=9))
    assert output.finish_reasons == ["tool_calls"]


def test_scores_and_logits_of_every_step_are_kept_when_asked_for():
    runner = FakeRunner(chain((1, 2), (2, 3)))
    settings = config(output_scores=True, output_logits=True, do_sample=True, top_k=1)
    output = generate(runner, [[1], [3]], settings, seed=0)
    assert len(output["scores"]) == len(output["logits"]) == 3
    np.testing.assert_array_equal(output.logits[0], [runner.logits([1]), runner.logits([3])])
    assert np.isnan(output.logits[1][1]).all()
    assert np.flatnonzero(np.isfinite(output.scores[1][0])).tolist() == [3]
    assert set(output.keys()) >= {"sequences", "scores", "logits"}
    assert dict(output)["finish_reasons"] == ["stop", "stop"]
    with pytest.raises(KeyError):
        output["colour"]


def test_a_stop_string_across_tokens_ends_the_row_and_is_not_streamed():
    tokenizer = ByteTokenizer(pieces=["ab", "cE", "N", "Dx"])  # 256..259
    streamer = Ids()
    output = generate(
        FakeRunner(script(256, 257, 258, 259, 256), 300), [[1]],
        config(stop_strings=["END"]), tokenizer=tokenizer, streamer=streamer,
    )  # fmt: skip
    assert lists(output) == [[1, 256, 257, 258, 259]]
    assert (output.finish_reasons, output.texts) == (["stop_string"], ["abc"])
    assert (streamer.got, streamer.texts, streamer.ends) == ([[1], [256]], ["c"], 1)


def test_a_text_streamer_shows_the_answer_up_to_the_stop_string(capsys):
    tokenizer = ByteTokenizer(pieces=["好", "吧停", "止了"])
    streamer = TextStreamer(tokenizer, skip_prompt=True)
    generate(FakeRunner(script(256, 257, 258), 300), [[1]], config(stop_strings="停止"),
             tokenizer=tokenizer, streamer=streamer)  # fmt: skip
    assert capsys.readouterr().out == "好吧\n"


def test_what_was_held_back_is_shown_when_the_answer_ends_otherwise():
    tokenizer = ByteTokenizer(pieces=["hi", "EN"])
    for end, limit, reason in ((9, 8, "stop"), (0, 2, "length")):
        streamer = Ids()
        output = generate(
            FakeRunner(script(256, 257, end), 300), [[1]],
            config(stop_strings=["END"], max_new_tokens=limit), tokenizer=tokenizer,
            streamer=streamer,
        )  # fmt: skip
        shown = [token for ids in streamer.got for token in ids]
        assert (output.finish_reasons, output.texts) == ([reason], ["hiEN"])
        assert shown == lists(output)[0]


def test_a_streamer_of_several_rows_gets_a_list_with_what_is_new_in_each():
    streamer = Ids()
    generate(FakeRunner(chain((1, 2), (2, 3))), [[1], [3, 3]], config(), streamer=streamer)
    assert streamer.got == [[[1], [3, 3]], [[2], [END]], [[3], []], [[END], []]]
    assert streamer.ends == 1


def test_a_streamer_that_breaks_ends_the_call_and_frees_the_cache():
    class Full(Ids):
        def put(self, value):
            super().put(value)
            if len(self.got) == 2:
                raise RuntimeError("reader left")

    runner, streamer = FakeRunner(chain((1, 2))), Full()
    with pytest.raises(RuntimeError, match="reader left"):
        generate(runner, [[1]], config(), streamer=streamer)
    assert (runner.num_released, streamer.ends) == (1, 1)


def test_an_error_of_the_model_frees_the_cache_and_reaches_the_streamer():
    def broken(ids):
        if len(ids) > 2:
            raise GenerationError("the key/value cache is full")
        return chain((1, 1))(ids)

    runner, streamer = FakeRunner(broken), Ids()
    with pytest.raises(GenerationError, match="cache is full"):
        generate(runner, [[1]], config(), streamer=streamer)
    assert (runner.num_released, streamer.ends) == (1, 1)
