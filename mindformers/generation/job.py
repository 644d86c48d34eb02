"""A request for answers on its way through the engine, and which token each of them gets next."""

from __future__ import annotations

from typing import Any

import numpy as np

from mindformers.generation.answer import Answer, open_buffer
from mindformers.generation.decoding import TextDecoder, open_decoder
from mindformers.generation.engine_job import EngineJob, Model
from mindformers.generation.handle import Handle
from mindformers.generation.logits_pipeline import LogitsPipeline
from mindformers.generation.prompts import answer_limits, check_prompts
from mindformers.generation.request import Constraint, Request
from mindformers.generation.rows import Row
from mindformers.generation.sampling import call_seed
from mindformers.generation.stopping import StopRules, tool_call_id


class Job(EngineJob):
    """One request for answers; what these share.

    Args:
        request: As it was asked.
        arrival: Its number.
        model: What answers it.
        handle: Gets the chunks.
        processors: The user's rules; see ``LogitsProcessor``.

    Raises:
        GenerationError: If it can never be answered.
    """

    def __init__(
        self, request: Request, arrival: int, model: Model, handle: Handle, processors: Any = ()
    ) -> None:
        super().__init__(arrival, model, handle, priority=request.priority, timeout=request.timeout)
        config = request.config
        config.check()
        self.request = request
        self.prompt = check_prompts([request.prompt], model.vocab_size, model.max_length)[0]
        limits, _ = answer_limits(
            [self.prompt], config.max_new_tokens, config.max_length, model.max_length
        )
        self.limit = limits[0]
        allowed = config.allowed_vocab_size or model.allowed_vocab_size
        self.pipeline = LogitsPipeline(config, model.vocab_size, processors, allowed)
        self.rules = StopRules(config, tool_call_id(model.tokenizer))
        self.seed = call_seed(request.seed)
        self.num_answers = (
            request.num_answers if request.num_answers > 1 else config.num_return_sequences
        )
        handle.usage.prompt_tokens = len(self.prompt)

    def note_start(self, answer: Answer) -> None:
        """Take note that reading begins, or begins again, with what the cache holds of the prompt."""
        if not self.has_started:
            self.count_prompt(len(self.prompt), answer.num_read)

    def row(self, index: int, length: int | None = None) -> Row:
        """Return an answer of ``length`` tokens (None: those of the prompt) that has no room for them yet."""
        prompt_length = len(self.prompt)
        return Row(index, np.empty(0, np.int32), length or prompt_length, prompt_length, None, None)

    def open_constraint(self) -> Constraint | None:
        """Return what rules tokens out of one answer, at its beginning."""
        return None if self.request.constraint is None else self.request.constraint()

    def first_answer(self, row: Row) -> Answer:
        """Return the answer that reads the prompt."""
        prefix_length = self.model.prefix_length
        whole = open_buffer(np.array(self.prompt, np.int32), self.limit, prefix_length)
        row.buffer = whole[prefix_length:]
        return Answer(self, row, whole)

    def open_decoder(self) -> TextDecoder:
        """Return what turns the ids of one answer into its text."""
        return open_decoder(
            self.model.tokenizer, skip_special_tokens=True, shown=self.request.shown
        )

    def count_tokens(self, count: int) -> None:
        """Take note of tokens of answers that are handed out."""
        for usage in (self.handle.usage, self.model.totals):
            usage.completion_tokens += count

    def count_guesses(self, drafted: int, accepted: int) -> None:
        """Take note of guesses that were read, and of those of them that were right."""
        for usage in (self.handle.usage, self.model.totals):
            usage.drafted_tokens += drafted
            usage.accepted_tokens += accepted
