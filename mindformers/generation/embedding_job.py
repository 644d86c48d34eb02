"""A request for embeddings: its prompts are read, a few at a time, and the hidden states of their tokens pooled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindformers.errors import GenerationError
from mindformers.generation.answer import Answer, open_buffer
from mindformers.generation.array import Array
from mindformers.generation.engine_job import EngineJob, Model
from mindformers.generation.handle import Handle
from mindformers.generation.prompts import check_read_prompts
from mindformers.generation.request import POOLINGS, Chunk, EmbeddingRequest
from mindformers.generation.rows import Row
from mindformers.generation.scheduler import Scheduler
from mindformers.generation.stopping import STOP


class EmbeddingJob(EngineJob):
    """The embeddings of some prompts: the pooled hidden states of each, of length 1.

    Args:
        request: As it was asked.
        arrival: Its number.
        model: What reads the prompts.
        handle: Gets a chunk for each.
        places: Prompts that are read at once, at most; the others follow as these end.

    Raises:
        GenerationError: If a prompt or the pooling can never be used.
    """

    gives_hidden = True

    def __init__(
        self, request: EmbeddingRequest, arrival: int, model: Model, handle: Handle, places: int
    ) -> None:
        super().__init__(arrival, model, handle, priority=request.priority, timeout=request.timeout)
        if request.pooling not in POOLINGS:
            raise GenerationError(
                f"found {request.pooling!r}", where="pooling", allowed=", ".join(POOLINGS)
            )
        self._prompts = check_read_prompts(request.prompts, model.vocab_size, model.max_length)
        if len(self._prompts) != request.num_answers:
            raise GenerationError(
                "found the ids of one prompt", where="prompts", allowed="a list of such lists"
            )
        # The mean is of all tokens: none can be left out because the cache holds its keys and values.
        self.reads_all = request.pooling == "mean"
        self._sums: dict[int, Array] = {}  # of the prompts that are being read, (H,) float64
        self._counted: set[int] = set()  # prompts whose reading has begun once
        self._coming = iter(range(len(self._prompts)))
        for _ in range(places):
            self._open_next()
        self._open = set(range(len(self._prompts)))
        handle.usage.prompt_tokens = sum(map(len, self._prompts))

    def _open_next(self) -> Answer | None:
        """Return the next prompt as an answer that will never have a token; None after the last."""
        index = next(self._coming, None)
        if index is None:
            return None
        prompt, prefix_length = self._prompts[index], self.model.prefix_length
        whole = open_buffer(np.array(prompt, np.int32), len(prompt), prefix_length)
        row = Row(index, whole[prefix_length:], len(prompt), len(prompt), None, None)
        self.answers.append(Answer(self, row, whole))
        return self.answers[-1]

    @property
    def width(self) -> int:
        """Prompts that have to be read at once."""
        return 1

    def picked(self, answer: Answer, count: int) -> Sequence[int]:
        """Return which of a prompt's next ``count`` tokens are pooled."""
        return range(count) if self.reads_all else super().picked(answer, count)

    def note_start(self, answer: Answer) -> None:
        """Take note that a prompt is read; again from its beginning where its blocks were given up."""
        index = answer.row.index
        self._sums.pop(index, None)
        if index not in self._counted:
            self._counted.add(index)
            self.count_prompt(answer.row.length, answer.num_read)

    def take(self, ready: Sequence[tuple[Answer, Array]], scheduler: Scheduler) -> None:
        """Pool the hidden states, (R, H) of each; see ``EngineJob.take``."""
        for answer, states in ready:
            index = answer.row.index
            # Long sums of float32 would depend on how a prompt is cut.
            total = self._sums.get(index, 0) + states.sum(0, dtype=np.float64)
            self._sums[index] = total
            if answer.num_unread == 0:
                self._finish(answer, total, scheduler)

    def _finish(self, answer: Answer, total: Array, scheduler: Scheduler) -> None:
        index, length = answer.row.index, np.linalg.norm(total)
        if not (np.isfinite(length) and length > 0):
            raise GenerationError(
                f"the hidden states of prompt {index} have no direction: their sum is of length {length}",
                where="embedding",
                fix="check the weights: NaN or infinite numbers in them spread to all that follows",
            )
        # Of length 1, the mean and the sum are the same.
        embedding = (total / length).astype(np.float32)
        self.finish_reason = STOP
        self.handle.put(Chunk(index, (), "", STOP, embedding=embedding))
        del self._sums[index]
        self._open.discard(index)
        self.leave(answer, scheduler)
        following = self._open_next()
        if following is not None:
            scheduler.add(following)

    def stop(self, reason: str) -> None:
        """Tell the handle that every prompt which has no embedding yet gets none."""
        self.finish_reason = reason
        for index in sorted(self._open):
            self.handle.put(Chunk(index, (), "", reason))
