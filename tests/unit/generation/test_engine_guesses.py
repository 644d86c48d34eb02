"""Guesses in the engine: they change no answer, give back what was wrong, and stand aside where a step is full."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers.errors import GenerationError
from mindformers.generation.answer import PREFIX_ID
from mindformers.generation.config import GenerationConfig
from mindformers.generation.scheduler import GUESSED_STEP
from tests.support.engine import (
    PREFIX,
    FakeStep,
    answers,
    chunks,
    is_empty,
    listened,
    open_core,
    run_all,
    submit,
)
from tests.support.generation import (
    END,
    ByteTokenizer,
    chain,
    fresh_warnings,
    pair_logits,
    script,
)

VOCAB = 12
NUM_MIXES = 30
TOKENIZER = ByteTokenizer()
LOOP = np.eye(VOCAB, dtype=np.float32)


def loop(ids):
    """1 2 3 1 2 3 and so on."""
    return LOOP[ids[-1] % 3 + 1]


class NeverTwice:
    """Every token but the one before."""

    def __init__(self, last=0):
        self.last = last

    def allowed(self):
        return np.arange(VOCAB) != self.last

    def accept(self, token):
        assert token != self.last
        self.last = token

    def copy(self):
        return NeverTwice(self.last)


CHOICES = [
    {},
    {"eos_token_id": [3, 7]},
    {"eos_token_id": [3], "min_new_tokens": 9},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.2},
    {"stop_strings": ["\x03\x04", "\x05\x05", "\x01\x02"]},
    {"do_sample": True, "top_k": 4, "eos_token_id": [2]},
    {"do_sample": True, "top_k": 0, "temperature": 0.7, "top_p": 0.8},
    {"bad_words_ids": [[1, 2]], "stop_strings": ["\x06"]},
]


def mix(rng):
    """Yield prompts, settings, options, and after how many steps each is cancelled; most never are."""
    for _ in range(rng.integers(1, 7)):
        # It repeats itself, and holds what ends answers: both are guessed.
        prompt = np.resize(rng.integers(0, VOCAB, rng.integers(2, 7)), rng.integers(1, 19)).tolist()
        choice = CHOICES[rng.integers(len(CHOICES))]
        limit = max(int(rng.integers(1, 40)), choice.get("min_new_tokens", 0))
        options = {
            "seed": int(rng.integers(2**32)),
            "num_answers": int(rng.choice([1, 1, 1, 3])),
            "logprobs": 1,
            "constraint": NeverTwice if rng.random() < 0.3 else None,
        }
        patience = int(rng.integers(40))
        yield prompt, {"max_new_tokens": limit, **choice}, options, patience


def check_blocks(core, step):
    """Check that answers have the room they need, and that blocks kept for others hold what they are known by."""
    for answer in core.scheduler.running:
        assert answer.draft == []
        assert answer.num_unread > 0
        assert core.scheduler.blocks.length(answer.place) >= answer.num_written
        assert core.scheduler.blocks.length(answer.place) <= answer.num_positions
    held = step.cache.reshape(-1, step.block_size)
    for block, (_, ids) in core.scheduler.blocks._known._keys.items():
        known = np.frombuffer(ids, np.int32)
        assert held[block].tolist() == np.where(known == PREFIX_ID, PREFIX, known).tolist()


def check_mix(seed):
    """Check one mix against each request alone without guesses; return the engine's counters."""
    rng = np.random.default_rng(seed)
    logits, prefix_length = pair_logits(VOCAB, seed), int(rng.choice([0, 0, 3]))

    def open_step():
        return FakeStep(
            lambda ids: 3 * logits(ids), VOCAB, max_length=60, prefix_length=prefix_length
        )

    def plain(prompt, asked, **options):
        core = open_core(open_step(), 64, TOKENIZER)
        handle = submit(core, prompt, asked, **options)
        run_all(core)
        return chunks(handle)

    step, prefix_cache = open_step(), bool(rng.random() < 0.7)
    step_tokens = int(rng.choice([5, 8, 64]))
    core = open_core(
        step, int(rng.integers(16, 28)), TOKENIZER, step_tokens=step_tokens,
        prefix_cache=prefix_cache, max_running=int(rng.choice([3, 64])),
    )  # fmt: skip
    going = []
    for prompt, given, options, patience in mix(rng):
        guesses = int(rng.choice([1, 4, 7, 10]))
        asked = GenerationConfig(prompt_lookup_num_tokens=guesses, **given)
        wanted = plain(prompt, GenerationConfig(**given), **options)
        going.append((submit(core, prompt, asked, **options), prompt, wanted))
        for _ in range(int(rng.integers(0, 16))):
            core.run_once()
            check_blocks(core, step)
            patience -= 1
            if patience == 0:
                core.stop(going[-1][0], "cancelled")
    run_all(core)
    stats = core.stats()
    assert is_empty(core)
    for pieces in step.steps:
        if any(len(piece.picked) > 1 for piece in pieces):
            assert sum(len(piece.ids) for piece in pieces) <= min(GUESSED_STEP, step_tokens)
    for handle, prompt, wanted in going:
        found = chunks(handle)
        for index, chunk in found.items():
            size = len(chunk.tokens)
            assert chunk == wanted[index] or chunk.finish_reason == "cancelled"
            assert chunk.tokens == wanted[index].tokens[:size]
            assert chunk.logprobs == wanted[index].logprobs[:size]
        assert handle.usage.completion_tokens == sum(len(each.tokens) for each in found.values())
        # What the prefix cache kept is what was said: who goes on from there reads nothing else.
        asked, talk = GenerationConfig(max_new_tokens=1), [*prompt, *found[0].tokens][:58]
        again = submit(core, talk, asked)
        run_all(core)
        assert chunks(again)[0].tokens == plain(talk, asked)[0].tokens
    assert prefix_cache or core.stats().cached_tokens == 0
    return stats


def test_guesses_change_no_answer():
    stats = [check_mix(seed) for seed in range(NUM_MIXES)]
    drafted = sum(each.drafted_tokens for each in stats)
    accepted = sum(each.accepted_tokens for each in stats)
    assert accepted > 5 * NUM_MIXES
    assert drafted - accepted > 2 * NUM_MIXES
    assert sum(each.preemptions for each in stats) > NUM_MIXES // 4


def test_a_right_guess_saves_a_step_and_is_counted():
    step = FakeStep(loop, VOCAB)
    core = open_core(step)
    asked = GenerationConfig(max_new_tokens=12, prompt_lookup_num_tokens=4)
    handle = submit(core, [1, 2, 3, 1, 2], asked)
    heard = listened(handle)
    run_all(core)
    assert [token for chunk in heard for token in chunk.tokens] == [3, 1, 2] * 4
    assert [[len(piece.ids) for piece in pieces] for pieces in step.steps] == [[5], [5], [5], [1]]
    usage, stats = handle.usage, core.stats()
    assert (usage.drafted_tokens, usage.accepted_tokens, usage.completion_tokens) == (8, 8, 12)
    assert (stats.drafted_tokens, stats.accepted_tokens, stats.generated_tokens) == (8, 8, 12)
    # Sixteen positions were read, the last token was not: four blocks, those of guesses among them.
    assert stats.cached_blocks == 4


@pytest.mark.parametrize(
    ("ending", "reason"),
    [({"eos_token_id": END}, "stop"), ({"stop_strings": "\x05\x09"}, "stop_string")],
)
def test_an_end_that_was_guessed_is_the_end(ending, reason):
    core = open_core(FakeStep(chain((4, 5))), tokenizer=TOKENIZER)
    asked = GenerationConfig(max_new_tokens=9, prompt_lookup_num_tokens=4, **ending)
    handle = submit(core, [4, 5, END, END, 6, 4], asked)
    run_all(core)
    found = chunks(handle)[0]
    assert (found.tokens, found.finish_reason) == ((5, END), reason)
    assert (handle.usage.drafted_tokens, handle.usage.accepted_tokens) == (4, 1)
    assert is_empty(core)


def test_blocks_of_wrong_guesses_are_free_in_the_next_step():
    text = [1, 2, 3, 1, 2, 4]  # what follows 1 2 is guessed as 3, and more
    step = FakeStep(script(*text[1:], *[6] * 5, vocab_size=VOCAB), VOCAB)
    core = open_core(step, 8)
    handle = submit(
        core,
        [1],
        GenerationConfig(max_new_tokens=7, prompt_lookup_num_tokens=6, eos_token_id=[]),
    )
    for _ in range(4):
        core.run_once()
    assert core.stats().blocks - core.stats().free_blocks == 1
    core.run_once()  # 1 2 3 1 2 and the guess 3: wrong
    assert len(step.steps[-1][0].ids) == 3
    assert core.scheduler.blocks.length(core.scheduler.running[0].place) == 5
    run_all(core)
    assert answers(handle) == {0: [2, 3, 1, 2, 4, 6, 6]}
    assert (handle.usage.drafted_tokens, handle.usage.accepted_tokens) == (2, 0)


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [8]), (2, [4, 4]), (3, [3, 3, 2]), (7, [2] + [1] * 6), (8, [1] * 8)]
)
def test_guesses_fill_a_step_up_to_what_the_kernels_take_at_once(count, sizes):
    step = FakeStep(loop, VOCAB)
    core = open_core(step)
    asked = GenerationConfig(max_new_tokens=30, prompt_lookup_num_tokens=9)
    for _ in range(count):
        submit(core, [1, 2, 3, 1, 2], asked)
    core.run_once()
    core.run_once()
    assert [len(piece.ids) for piece in step.steps[1]] == sizes


def test_a_step_that_reads_a_long_prompt_has_no_guesses():
    step = FakeStep(loop, VOCAB)
    core = open_core(step)
    asked = GenerationConfig(max_new_tokens=30, prompt_lookup_num_tokens=4)
    submit(core, [1, 2, 3, 1, 2], asked)
    core.run_once()
    submit(core, [5] * 20, asked)
    core.run_once()
    assert [len(piece.ids) for piece in step.steps[-1]] == [1, 20]


def test_nobody_gives_way_for_a_guess():
    def run(**guessing):
        core = open_core(FakeStep(loop, VOCAB), 8)
        asked = GenerationConfig(max_new_tokens=9, **guessing)
        handles = [submit(core, [1, 2, 3, 1, 2], asked) for _ in range(2)]
        run_all(core)
        assert is_empty(core)
        return [answers(each) for each in handles], core.stats()

    wanted, before = run()
    found, after = run(prompt_lookup_num_tokens=6)
    assert found == wanted
    assert after.preemptions == before.preemptions == 0
    assert after.accepted_tokens > 0


def test_a_rule_that_fails_behind_a_right_guess_ends_its_request_alone():
    class Fails(NeverTwice):
        def accept(self, token):
            super().accept(token)
            self.count = getattr(self, "count", 0) + 1
            if self.count == 4:
                raise ValueError("no more")

    core = open_core(FakeStep(loop, VOCAB))
    asked = GenerationConfig(max_new_tokens=12, prompt_lookup_num_tokens=3)
    failing = submit(core, [1, 2, 3, 1, 2], asked, constraint=Fails)
    other = submit(core, [1, 2, 3, 1, 2], asked)
    heard = listened(failing)
    run_all(core)
    assert [token for chunk in heard for token in chunk.tokens] == [3, 1, 2]
    assert answers(other) == {0: [3, 1, 2] * 4}
    assert core.stats().finished == {"error": 1, "length": 1}
    assert is_empty(core)


def test_what_cannot_guess_says_so(monkeypatch, caplog):
    fresh_warnings(monkeypatch)
    with pytest.raises(GenerationError, match="prompt_lookup_num_tokens: a search with num_beams"):
        submit(
            open_core(FakeStep(loop, VOCAB)),
            [1],
            GenerationConfig(num_beams=2, prompt_lookup_num_tokens=3),
        )
    step = FakeStep(loop, VOCAB, is_whole=True)
    core = open_core(step)
    asked = GenerationConfig(max_new_tokens=6, prompt_lookup_num_tokens=3)
    handle = submit(core, [1, 2, 3, 1, 2], asked)
    run_all(core)
    assert answers(handle) == {0: [3, 1, 2] * 2}
    assert handle.usage.drafted_tokens == 0
    assert caplog.messages == [
        "guessed tokens (prompt_lookup_num_tokens, assistant_model) have no effect on an NPU"
    ]
