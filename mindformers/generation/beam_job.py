"""A request that is searched for: the answers whose tokens together are the likeliest.

In every step each beam's likeliest continuations are weighed against those of the others; the best go on. An
answer that ends is kept with its score, the sum of its log probabilities over its length to the power of
``length_penalty``. The order of the rules is that of Hugging Face's beam search, so the answers are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mindformers.errors import GenerationError
from mindformers.generation.answer import Answer
from mindformers.generation.array import Array
from mindformers.generation.engine_job import Model
from mindformers.generation.handle import Handle
from mindformers.generation.job import Job
from mindformers.generation.logits import normalize
from mindformers.generation.request import Chunk, Request
from mindformers.generation.scheduler import Scheduler
from mindformers.generation.stopping import LENGTH


@dataclass
class _Beam:
    """An answer that goes on: the sum of its log probabilities, and the logits of what follows, once read."""

    answer: Answer
    score: float = 0.0
    logits: Array | None = None


@dataclass(frozen=True)
class Found:
    """An answer that has ended; ids without the prompt, the score with the length taken into account."""

    score: float
    ids: tuple[int, ...]
    finish_reason: str


class BeamJob(Job):
    """A search with ``num_beams`` beams. Args as in ``Job``.

    Raises:
        GenerationError: As ``Job``; or if a setting makes no sense in a search.
    """

    goes_together = True

    def __init__(
        self, request: Request, arrival: int, model: Model, handle: Handle, processors: Any = ()
    ) -> None:
        super().__init__(request, arrival, model, handle, processors)
        self.num_beams = request.config.num_beams
        self._refuse_what_has_no_meaning(request)
        first = self.row(0)
        first.constraint = self.open_constraint()
        self._beams = [_Beam(self.first_answer(first))]
        self.answers = [self._beams[0].answer]
        self.found: list[Found] = []  # the best first, as many as there are beams

    def _refuse_what_has_no_meaning(self, request: Request) -> None:
        refused = {
            "do_sample": request.config.do_sample,
            "stop_strings": request.config.stop_strings,
            "prompt_lookup_num_tokens": request.config.prompt_lookup_num_tokens is not None,
            "logprobs": request.logprobs is not None,
        }
        for name, is_asked in refused.items():
            if is_asked:
                raise GenerationError(
                    f"a search with num_beams {self.num_beams} has none", where=name, fix=f"leave {name} out"
                )  # fmt: skip
        if self.num_answers > self.num_beams:
            raise GenerationError(
                f"found {self.num_answers}", where="num_return_sequences",
                allowed=f"1 to num_beams, {self.num_beams}",
            )  # fmt: skip

    @property
    def width(self) -> int:
        """Answers that go on at once, at most."""
        return self.num_beams

    def take(self, ready: Sequence[tuple[Answer, Array]], scheduler: Scheduler) -> None:
        """Go on once every beam's logits are there; see ``EngineJob.take``."""
        by_answer = dict(ready)
        for beam in self._beams:
            if beam.answer in by_answer:
                # The array is part of the step's: a copy, lest a beam that waits keeps all of it.
                beam.logits = by_answer[beam.answer][-1].copy()
            elif beam.answer.num_unread:
                beam.logits = None  # its blocks were given up: it is read again
        if all(beam.logits is not None for beam in self._beams):
            self._advance(scheduler)

    def _advance(self, scheduler: Scheduler) -> None:
        chosen: list[tuple[_Beam, int, float]] = []
        length = self.answers[0].row.length + 1  # with the token that is chosen now
        is_last = length == self.limit
        for place, (score, beam, token) in enumerate(self._candidates()):
            reason = self.rules.reason_of(token) or (LENGTH if is_last else "")
            if not reason:
                chosen.append((beam, token, score))
            elif place < self.num_beams:  # those behind are there to go on in their place
                answer = (*beam.answer.row.ids[len(self.prompt) :].tolist(), token)
                self._keep(Found(self._weighed(score, length), answer, reason))
        chosen = chosen[: self.num_beams]
        if not chosen or self._is_settled(chosen[0][2], length):
            self._finish(scheduler)
        else:
            self._branch(chosen, scheduler)

    def _candidates(self) -> Iterator[tuple[float, _Beam, int]]:
        """Yield the likeliest continuations of all beams: sum of log probabilities, beam, token."""
        rows = []
        for beam in self._beams:
            row = beam.answer.row
            assert beam.logits is not None
            where = f"beam {row.index}, token {row.length - row.prompt_length + 1}"
            scores = self.pipeline(
                normalize(beam.logits), row.ids, row.prompt_length, where, row.constraint
            )
            rows.append(scores + np.float32(beam.score))
        flat = np.concatenate(rows)
        # Were every end token among the best, as many would still be left to go on.
        wanted = max(2, 1 + len(self.rules.eos_ids)) * self.num_beams
        best = np.argpartition(-flat, min(wanted, len(flat)) - 1)[:wanted]
        for place in best[np.lexsort((best, -flat[best]))]:
            if flat[place] > -np.inf:
                number, token = divmod(int(place), self.model.vocab_size)
                yield float(flat[place]), self._beams[number], token

    def _weighed(self, score: float, length: int) -> float:
        return score / (length - len(self.prompt)) ** self.request.config.length_penalty

    def _keep(self, found: Found) -> None:
        self.found.append(found)
        self.found.sort(key=lambda each: -each.score)
        del self.found[self.num_beams :]

    def _is_settled(self, best_score: float, length: int) -> bool:
        """Whether what goes on cannot, or need not, end better than what was found."""
        config = self.request.config
        if len(self.found) < self.num_beams:
            return False
        if config.early_stopping is True:
            return True
        is_patient = config.early_stopping == "never" and config.length_penalty > 0
        return (
            self._weighed(best_score, self.limit if is_patient else length) <= self.found[-1].score
        )

    def _branch(self, chosen: list[tuple[_Beam, int, float]], scheduler: Scheduler) -> None:
        """Let the chosen ones go on: a beam's first one in its place, further ones in copies."""
        beams: list[_Beam] = []
        taken: set[int] = set()
        for beam, _, score in chosen:
            answer = beam.answer
            if id(answer) in taken:
                answer = self._copy(answer)
                self.answers.append(answer)
                scheduler.fork(beam.answer, answer)
            taken.add(id(answer))
            beams.append(_Beam(answer, score))
        for beam in self._beams:
            if id(beam.answer) not in taken:
                self.leave(beam.answer, scheduler)
        # Only now: a copy begins with what its beam had before.
        for index, (beam, (_, token, _)) in enumerate(zip(beams, chosen, strict=True)):
            beam.answer.row.index = index
            beam.answer.row.accept(token, self.rules)
        self._beams = beams

    def _copy(self, answer: Answer) -> Answer:
        row = self.row(answer.row.index, answer.row.length)
        if answer.row.constraint is not None:
            row.constraint = answer.row.constraint.copy()
        return answer.copy(row)

    def _finish(self, scheduler: Scheduler) -> None:
        self._hand_out(self.found)
        for answer in list(self.answers):
            self.leave(answer, scheduler)

    def stop(self, reason: str) -> None:
        """Hand out the best so far; what ends now ends with ``reason``."""
        going = [
            Found(beam.score, tuple(beam.answer.row.ids[len(self.prompt) :].tolist()), reason)
            for beam in self._beams
        ]
        self._hand_out([*self.found, *going])
        self.finish_reason = reason

    def _hand_out(self, found: Sequence[Found]) -> None:
        self.finish_reason = found[0].finish_reason
        for index in range(self.num_answers):
            # A constraint may leave fewer ways than answers were asked for.
            each = found[min(index, len(found) - 1)]
            self.count_tokens(len(each.ids))
            self.handle.put(Chunk(index, each.ids, self._text(each.ids), each.finish_reason))

    def _text(self, ids: Sequence[int]) -> str:
        if self.model.tokenizer is None:
            return ""
        decoder = self.open_decoder()
        return "".join(decoder.put(token) for token in ids) + decoder.flush()

    @property
    def num_coming(self) -> int:
        """Answers that may yet be forked from those there are."""
        return self.num_beams - len(self.answers)
