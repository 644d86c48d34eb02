"""The token loop: prompts in, answers out, over any model that gives the next token's logits.

It knows token ids only. Rows that end leave the batch at once; what the others choose does not
depend on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mindformers.errors import GenerationError
from mindformers.generation.array import Array
from mindformers.generation.config import GenerationConfig
from mindformers.generation.decoding import open_decoder
from mindformers.generation.drafts import Drafter, open_drafter, verify
from mindformers.generation.logits_pipeline import LogitsPipeline
from mindformers.generation.model_runner import ModelRunner
from mindformers.generation.output import GenerateOutput, report
from mindformers.generation.prompts import answer_limits, check_prompts
from mindformers.generation.request import Constraint
from mindformers.generation.rows import Row, StepRecord
from mindformers.generation.sampling import call_seed, choose, row_generator
from mindformers.generation.stopping import (
    STOP_STRING,
    StopRules,
    StopStrings,
    StopTextScanner,
    stray_eos_ids,
    tool_call_id,
)
from mindformers.generation.streamer import streaming
from mindformers.logger import warn_once


def generate(  # noqa: PLR0913 -- what a call may be given
    runner: ModelRunner,
    prompts: Any,
    config: GenerationConfig,
    *,
    streamer: Any = None,
    logits_processors: Any = (),
    tokenizer: Any = None,
    seed: int | None = None,
    constraint: Callable[[], Constraint] | None = None,
    assistant: ModelRunner | None = None,
) -> GenerateOutput:
    """Continue prompts until an end token, a stop string or the length limit.

    Args:
        runner: The model.
        prompts: One sequence of ids per row, without padding (see ``prepare_prompts``).
        config: How to choose and when to end.
        streamer: Gets the prompt, then each step's ids; see ``BaseStreamer``.
        logits_processors: The user's rules; see ``LogitsProcessor``.
        tokenizer: Needed for stop strings. When given, ids it has no token for are never produced,
            and an answer that ends with ``<|observation|>`` finishes as ``tool_calls``.
        seed: 0 to 2**64 - 1. Row r draws from (seed, r) alone.
        constraint: Opens what rules tokens out, once for each answer; None: nothing does.
        assistant: A smaller model that guesses tokens; the answers do not depend on it.

    Returns:
        The answers; ``num_return_sequences`` to each prompt, side by side.

    Raises:
        GenerationError: If a prompt, a setting or an argument cannot be used, or the model's logits
            leave no token to choose.
    """
    with streaming(streamer):
        call = _Call(runner, prompts, config, streamer, logits_processors, tokenizer, seed)
        if constraint is not None:
            for row in call.rows:
                row.constraint = constraint()
        drafter = open_drafter(config, runner, assistant, allowed_size(config, tokenizer))
        return call.run(drafter)


class _Call:
    """The state of one ``generate``."""

    def __init__(
        self,
        runner: ModelRunner,
        prompts: Any,
        config: GenerationConfig,
        streamer: Any,
        logits_processors: Any,
        tokenizer: Any,
        seed: int | None,
    ) -> None:
        config.check()
        self.runner, self.config, self.streamer = runner, config, streamer
        asked = check_prompts(prompts, runner.vocab_size, runner.max_length)
        self.prompts = [each for each in asked for _ in range(config.num_return_sequences)]
        self.pipeline = LogitsPipeline(
            config, runner.vocab_size, logits_processors, allowed_size(config, tokenizer)
        )
        self.rules = StopRules(config, tool_call_id(tokenizer))
        if seed is not None or not config.is_greedy:
            seed = call_seed(seed)
        self.seed = None if config.is_greedy else seed
        self.rows = self._build_rows(tokenizer)
        self.scores = StepRecord(len(self.rows)) if config.output_scores else None
        self.logits = StepRecord(len(self.rows)) if config.output_logits else None
        self.num_steps = 0
        stray = stray_eos_ids(config.eos_token_id, runner.vocab_size)
        if stray:
            warn_once(
                "eos_token_id %s: the model has %d ids and never gives these",
                stray,
                runner.vocab_size,
            )

    def _build_rows(self, tokenizer: Any) -> list[Row]:
        config = self.config
        limits, note = answer_limits(
            self.prompts, config.max_new_tokens, config.max_length, self.runner.max_length
        )
        if note:
            warn_once("%s", note)
        strings = _stop_strings(config, tokenizer)
        rows = []
        for index, (prompt, limit) in enumerate(zip(self.prompts, limits, strict=True)):
            buffer = np.empty(limit, np.int32)
            buffer[: len(prompt)] = prompt
            generator = None if self.seed is None else row_generator(self.seed, index)
            scanner = None
            if strings is not None:
                decoder = open_decoder(tokenizer, skip_special_tokens=True)
                scanner = StopTextScanner(strings, decoder)
            rows.append(Row(index, buffer, len(prompt), len(prompt), generator, scanner))
        return rows

    def run(self, drafter: Drafter | None) -> GenerateOutput:
        """Read the prompts, then add tokens until every row has ended."""
        self._put([row.ids for row in self.rows])
        for row in self.rows:
            row.draft_length = drafter.num_tokens if drafter is not None else 0
        started = time.perf_counter()
        try:
            logits = list(self._checked(self.runner.prefill(self.prompts))[:, np.newaxis])
            prefilled = time.perf_counter()
            running = self.rows
            drafts: list[list[int]] = [[]] * len(running)
            while running := self._step(running, logits, drafts):
                drafts = self._drafts(running, drafter)
                logits = self._read(running, drafts)
                self.num_steps += 1
        finally:
            self.runner.release()
            if drafter is not None:
                drafter.release()
        return self._output(prefilled - started, time.perf_counter() - prefilled)

    def _drafts(self, running: list[Row], drafter: Drafter | None) -> list[list[int]]:
        """Return guesses for each running row, none where there is no room for them or no need."""
        if drafter is None:
            return [[]] * len(running)
        room = min(drafter.num_tokens, self.runner.room(len(running)) - 1)
        return drafter.draft(running, [max(0, min(room, row.next_draft())) for row in running])

    def _read(self, running: list[Row], drafts: list[list[int]]) -> list[Array]:
        """Read each row's newest token and the guesses after it; return the logits after each, (1 + k, V) a row."""
        rows = np.array([row.index for row in running], np.int32)
        newest = [int(row.ids[-1]) for row in running]
        if not any(drafts):
            found = self.runner.decode(np.array(newest, np.int32), rows)
            return list(self._checked(found)[:, np.newaxis])
        tokens = [[first, *draft] for first, draft in zip(newest, drafts, strict=True)]
        ends = np.cumsum([len(each) for each in tokens])
        return np.split(self._checked(self.runner.extend(tokens, rows)), ends[:-1])

    def _checked(self, logits: Any) -> Array:
        logits = np.asarray(logits, dtype=np.float32)
        assert logits.ndim == 2, f"runner gave logits {logits.shape}"
        assert logits.shape[1] == self.runner.vocab_size, f"runner gave logits {logits.shape}"
        return logits

    def _step(
        self, running: list[Row], logits: Sequence[Array], drafts: list[list[int]]
    ) -> list[Row]:
        """Choose a token for each running row, and one more for each right guess; return the rows that go on."""
        shown: list[Array] = [np.zeros(0, np.int32)] * len(self.rows)
        for row, own, draft in zip(running, logits, drafts, strict=True):
            shown[row.index] = np.array(self._take(row, own, draft), np.int32)
        self._put(shown)
        for row in running:
            if row.finish_reason == STOP_STRING and row.scanner is not None:
                self._put_text(row.scanner.last_text)
        going = [row for row in running if not row.finish_reason]
        if any(drafts) and going:
            self.runner.rollback([row.length - 1 for row in going], [row.index for row in going])
        return going

    def _take(self, row: Row, logits: Array, draft: list[int]) -> list[int]:
        """Append what the logits after the newest token and after each right guess say; return what can be shown."""
        shown: list[int] = []

        def go_on(own: Array) -> int:
            token = self._choose(row, own)
            shown.extend(row.accept(token, self.rules))
            return token

        verify(row, logits, draft, go_on)
        return shown

    def _choose(self, row: Row, logits: Array) -> int:
        step = row.length - row.prompt_length
        where = f"prompt {row.index}, answer token {step + 1}"
        scores = self.pipeline(logits, row.ids, row.prompt_length, where, row.constraint)
        for record, values in ((self.scores, scores), (self.logits, logits)):
            if record is not None:
                record.put(step, row.index, values)
        return choose(scores, row.generator)

    def _put(self, rows: Sequence[Array]) -> None:
        if self.streamer is None or not any(len(ids) for ids in rows):
            return
        self.streamer.put(rows[0].copy() if len(rows) == 1 else [ids.copy() for ids in rows])

    def _put_text(self, text: str) -> None:
        if text and len(self.rows) == 1 and hasattr(self.streamer, "put_text"):
            self.streamer.put_text(text)

    def _output(self, prefill_seconds: float, decode_seconds: float) -> GenerateOutput:
        texts = [row.scanner.text for row in self.rows if row.scanner is not None]
        output = GenerateOutput(
            sequences=[row.ids.copy() for row in self.rows],
            finish_reasons=[row.finish_reason for row in self.rows],
            num_prompt_tokens=[row.prompt_length for row in self.rows],
            num_generated=[row.length - row.prompt_length for row in self.rows],
            seed=self.seed,
            texts=texts or None,
            prefill_seconds=prefill_seconds,
            decode_seconds=decode_seconds,
            scores=None if self.scores is None else tuple(self.scores.steps),
            logits=None if self.logits is None else tuple(self.logits.steps),
            num_steps=self.num_steps,
            num_drafted=[row.num_drafted for row in self.rows],
            num_accepted=[row.num_accepted for row in self.rows],
        )
        report(output, self.config.eos_token_id)
        return output


def _stop_strings(config: GenerationConfig, tokenizer: Any) -> StopStrings | None:
    if not config.stop_strings:
        return None
    if tokenizer is None:
        raise GenerationError(
            "found texts, but no tokenizer was given to find them with",
            where="stop_strings",
            fix="pass tokenizer= to generate()",
        )
    return StopStrings(config.stop_strings)


def allowed_size(config: GenerationConfig, tokenizer: Any) -> int | None:
    """Return the first id that no token stands for, or None where all may be given."""
    if config.allowed_vocab_size is None and hasattr(tokenizer, "__len__"):
        return len(tokenizer)
    return config.allowed_vocab_size
