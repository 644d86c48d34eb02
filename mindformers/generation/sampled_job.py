"""A request whose answers go on by themselves: the likeliest token, or a draw of each answer's own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from mindformers.errors import GenerationError
from mindformers.generation.answer import Answer
from mindformers.generation.array import Array
from mindformers.generation.drafts import open_lookup, verify
from mindformers.generation.engine_job import Model
from mindformers.generation.handle import Handle
from mindformers.generation.job import Job
from mindformers.generation.logprobs import token_logprob
from mindformers.generation.request import Chunk, Request
from mindformers.generation.rows import Row
from mindformers.generation.sampling import choose, row_generator
from mindformers.generation.scheduler import Scheduler
from mindformers.generation.stopping import StopStrings, StopTextScanner


class SampledJob(Job):
    """A request whose answers go on by themselves, each with the likeliest token or a draw of its own.

    Args and errors as in ``Job``.
    """

    def __init__(
        self, request: Request, arrival: int, model: Model, handle: Handle, processors: Any = ()
    ) -> None:
        super().__init__(request, arrival, model, handle, processors)
        strings = StopStrings(request.config.stop_strings)
        if request.config.stop_strings and model.tokenizer is None:
            raise GenerationError(
                "found texts, but the engine has no tokenizer to find them with",
                where="stop_strings",
                fix="open the engine with a tokenizer",
            )
        self._lookup = open_lookup(request.config)
        rows = [self._voiced_row(index, strings) for index in range(self.num_answers)]
        self.answers = [self.first_answer(rows[0])]
        self._others = rows[1:]

    def _voiced_row(self, index: int, strings: StopStrings) -> Row:
        row = self.row(index)
        row.constraint = self.open_constraint()
        row.draft_length = self._lookup.num_tokens if self._lookup is not None else 0
        if not self.request.config.is_greedy:
            row.generator = row_generator(self.seed, index)
        if self.model.tokenizer is not None:
            decoder = self.open_decoder()
            row.scanner = StopTextScanner(strings, decoder)
        return row

    @property
    def width(self) -> int:
        """Answers that go on at once, at most."""
        return self.num_answers

    @property
    def num_coming(self) -> int:
        """Answers that may yet be forked from those there are."""
        return len(self._others)

    def guess(self, row: Row, most: int) -> list[int]:
        """Return guesses; see ``EngineJob.guess``. None while others begin with what the answer read."""
        if self._lookup is None or self._others:
            return []
        return self._lookup.draft([row], [min(most, self._lookup.num_tokens, row.next_draft())])[0]

    def take(self, ready: Sequence[tuple[Answer, Array]], scheduler: Scheduler) -> None:
        """Choose a token for each of ``ready``, and one more for each right guess; see ``EngineJob.take``."""
        ready = list(ready)
        first, logits = ready[0]
        for row in self._others:
            other = first.copy(row)
            self.answers.append(other)
            scheduler.fork(first, other)
            ready.append((other, logits))
        self._others = []
        for answer, own in ready:
            num_right = verify(answer.row, own, answer.draft, partial(self._go_on, answer))
            self.count_guesses(len(answer.draft), num_right)
            scheduler.settle(answer, num_right)
            if answer.row.finish_reason:
                self.leave(answer, scheduler)

    def _go_on(self, answer: Answer, logits: Array) -> int:
        row = answer.row
        where = f"answer {row.index}, token {row.length - row.prompt_length + 1}"
        scores = self.pipeline(logits, row.ids, row.prompt_length, where, row.constraint)
        token = choose(scores, row.generator)
        row.accept(token, self.rules)
        self.finish_reason = row.finish_reason or self.finish_reason
        wanted = self.request.logprobs
        told = () if wanted is None else (token_logprob(logits, token, wanted),)
        self.count_tokens(1)
        text = "" if row.scanner is None else row.scanner.take()
        self.handle.put(Chunk(row.index, (token,), text, row.finish_reason, told))
        return token

    def stop(self, reason: str) -> None:
        """Tell the handle that every answer which has not ended ends now."""
        self.finish_reason = reason
        for answer in self.answers:
            scanner, text = answer.row.scanner, ""
            if scanner is not None:
                scanner.flush()
                text = scanner.take()
            self.handle.put(Chunk(answer.row.index, (), text, reason))
        for row in self._others:
            self.handle.put(Chunk(row.index, (), "", reason))
