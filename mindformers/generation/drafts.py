"""Guesses of the next tokens, which the model checks all at once: speculative decoding.

A guess never changes an answer: the model chooses every token from its own logits, and a guess only saves
the pass over the weights that would have led to the same token. Drawing works alike, with the row's own
random numbers, so a seed gives the same answer with and without guesses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from mindformers.errors import GenerationError
from mindformers.generation.array import Array
from mindformers.generation.config import GenerationConfig
from mindformers.generation.logits_pipeline import LogitsPipeline
from mindformers.generation.model_runner import ModelRunner
from mindformers.generation.rows import Row
from mindformers.generation.sampling import choose_greedy, choose_sampled

SHORTEST_MATCH = 2  # tokens; what follows a single one is a guess too bad for its cost
NOT_ON_NPU = "guessed tokens (prompt_lookup_num_tokens, assistant_model) have no effect on an NPU"


class Drafter(Protocol):
    """Guesses how rows go on."""

    num_tokens: int  # it guesses at a time, at most

    def draft(self, rows: Sequence[Row], most: Sequence[int]) -> list[list[int]]:
        """Return guesses for each row, from the next token on, no more than ``most`` says of it."""

    def release(self) -> None:
        """Forget the rows; called once, also after an error."""


class PromptLookup:
    """Guesses that what followed the last tokens where they stood before follows again.

    Args:
        num_tokens: Guesses at a time, at most.
        longest_match: Tokens compared, at most.

    Source: Saxena 2023, "Prompt lookup decoding".
    """

    def __init__(self, num_tokens: int, longest_match: int) -> None:
        self.num_tokens, self._longest = num_tokens, longest_match

    def draft(self, rows: Sequence[Row], most: Sequence[int]) -> list[list[int]]:
        """Return guesses for each row; see ``Drafter``."""
        return [
            look_up(row.ids, count, self._longest) for row, count in zip(rows, most, strict=True)
        ]

    def release(self) -> None:
        """Forget nothing: nothing is kept."""


def look_up(ids: Array, count: int, longest_match: int) -> list[int]:
    """Return what followed the place that agrees with the end of ``ids`` in the most tokens, the latest of equals.

    Args:
        ids: (L,) int32.
        count: Tokens to return; what reaches the end of ``ids`` goes on as a repetition.
        longest_match: Tokens compared, at most.
    """
    places, matched = np.flatnonzero(ids[:-1] == ids[-1]), 1
    while matched < longest_match:
        further = places[places >= matched]
        further = further[ids[further - matched] == ids[-1 - matched]] if len(further) else further
        if not len(further):
            break
        places, matched = further, matched + 1
    if not count or not len(places) or matched < min(SHORTEST_MATCH, longest_match):
        return []
    first = int(places[-1]) + 1
    found: list[int] = np.resize(ids[first : first + count], count).tolist()
    return found


class Assistant:
    """Guesses of a smaller model, which reads along in a cache of its own.

    Args:
        runner: That model.
        config: The call's settings: it chooses as the large model will.
        num_tokens: Guesses at a time, at most.
        allowed_vocab_size: Ids from here on are never guessed; None: all may be.
    """

    def __init__(
        self,
        runner: ModelRunner,
        config: GenerationConfig,
        num_tokens: int,
        allowed_vocab_size: int | None = None,
    ) -> None:
        self.num_tokens, self._runner = num_tokens, runner
        self._pipeline = LogitsPipeline(config, runner.vocab_size, (), allowed_vocab_size)
        self._places: dict[int, int] | None = None  # row -> its number in the runner
        self._read: dict[int, Array] = {}  # row -> the ids in its cache

    def draft(self, rows: Sequence[Row], most: Sequence[int]) -> list[list[int]]:
        """Return guesses for each row; see ``Drafter``. A row that has become too long gets none."""
        count = max(most)
        guesses: dict[int, list[int]] = {}
        reading = [row for row in rows if self._can_read(row, count)]
        if count and reading:
            guesses = self._guess(reading, count)
        return [guesses.get(row.index, [])[:limit] for row, limit in zip(rows, most, strict=True)]

    def release(self) -> None:
        """Forget the rows."""
        self._runner.release()

    def _can_read(self, row: Row, count: int) -> bool:
        is_known = self._places is None or row.index in self._places
        return is_known and row.length + count <= self._runner.max_length

    def _guess(self, rows: Sequence[Row], count: int) -> dict[int, list[int]]:
        logits = self._catch_up(rows)
        assert self._places is not None
        numbers = np.array([self._places[row.index] for row in rows], np.int32)
        generators = [copy.deepcopy(row.generator) for row in rows]
        texts = [row.ids for row in rows]
        for step in range(count):
            tokens = [
                self._choose(row, ids, own, generator)
                for row, ids, own, generator in zip(rows, texts, logits, generators, strict=True)
            ]
            texts = [
                np.append(ids, np.int32(token)) for ids, token in zip(texts, tokens, strict=True)
            ]
            if step + 1 < count:
                logits = self._runner.decode(np.array(tokens, np.int32), numbers)
        self._read = {row.index: ids[:-1] for row, ids in zip(rows, texts, strict=True)}
        return {row.index: ids[row.length :].tolist() for row, ids in zip(rows, texts, strict=True)}

    def _choose(
        self, row: Row, ids: Array, logits: Array, generator: np.random.Generator | None
    ) -> int:
        where = f"assistant model, prompt {row.index}"
        scores = self._pipeline(logits, ids, row.prompt_length, where)
        return choose_greedy(scores) if generator is None else choose_sampled(scores, generator)

    def _catch_up(self, rows: Sequence[Row]) -> Array:
        """Let the cache hold what the rows hold now; return the logits after each, (A, V)."""
        if self._places is None:
            self._places = {row.index: number for number, row in enumerate(rows)}
            return self._runner.prefill([row.ids.tolist() for row in rows])
        self._places = {row.index: self._places[row.index] for row in rows}
        kept = [_agreeing(self._read[row.index], row.ids) for row in rows]
        numbers = list(self._places.values())
        self._runner.rollback(kept, numbers)
        new = [row.ids[length:].tolist() for row, length in zip(rows, kept, strict=True)]
        logits = self._runner.extend(new, np.array(numbers, np.int32))
        return logits[np.cumsum([len(each) for each in new]) - 1]


def _agreeing(read: Array, ids: Array) -> int:
    """Return how many tokens two sequences begin with in common; the last of ``ids`` does not count."""
    common = min(len(read), len(ids) - 1)
    differs = np.flatnonzero(read[:common] != ids[:common])
    return int(differs[0]) if len(differs) else common


def verify(row: Row, logits: Array, draft: Sequence[int], go_on: Callable[[Array], int]) -> int:
    """Let a row go on by what follows its newest token, and by what follows each guess that is right.

    Args:
        row: It notes what its guesses were worth.
        logits: (1 + k, V) float32, after the newest token and after each of k guesses.
        draft: The guesses.
        go_on: Chooses the next token by logits (V,), appends it to the row and returns it.

    Returns:
        How many guesses were right.
    """
    num_right = 0
    for own, guess in zip(logits, [*draft, None], strict=True):
        if go_on(own) != guess:
            break
        num_right += 1
        if row.finish_reason:
            break
    row.count_draft(len(draft), num_right)
    return num_right


def open_lookup(config: GenerationConfig) -> PromptLookup | None:
    """Return what guesses from the text so far; None: that is not asked for."""
    count = config.prompt_lookup_num_tokens
    return None if count is None else PromptLookup(count, config.max_matching_ngram_size)


def open_drafter(
    config: GenerationConfig,
    runner: ModelRunner,
    assistant: ModelRunner | None,
    allowed_vocab_size: int | None = None,
) -> Drafter | None:
    """Return what guesses tokens in a call; None: nothing does.

    Args:
        config: The call's settings.
        runner: The model.
        assistant: A smaller model of the same vocabulary; None: there is none.
        allowed_vocab_size: Ids from here on are never produced.

    Raises:
        GenerationError: If two kinds of guesses are asked for, or the smaller model has another vocabulary.
    """
    lookup = open_lookup(config)
    if assistant is None:
        return lookup
    if lookup is not None:
        raise GenerationError(
            f"found prompt_lookup_num_tokens {lookup.num_tokens} and an assistant model",
            where="prompt_lookup_num_tokens",
            fix="leave one of the two out: tokens are guessed in one way",
        )
    if assistant.vocab_size != runner.vocab_size:
        raise GenerationError(
            f"a model of {assistant.vocab_size} ids",
            where="assistant_model",
            allowed=f"one of the same vocabulary: {runner.vocab_size} ids",
            fix="take a smaller model of the same family",
        )
    return Assistant(assistant, config, config.num_assistant_tokens, allowed_vocab_size)
