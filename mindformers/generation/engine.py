"""The token loop: prompts in, answers out, over any model that gives the next token's logits.

It knows token ids only. Rows that end leave the batch at once; what the others choose does not
depend on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mindformers.errors import GenerationError
from mindformers.generation.array import Array
from mindformers.generation.config import GenerationConfig
from mindformers.generation.decoding import open_decoder
from mindformers.generation.logits_pipeline import LogitsPipeline
from mindformers.generation.prompts import answer_limits, check_prompts
from mindformers.generation.request import Constraint
from mindformers.generation.rows import Row, StepRecord
from mindformers.generation.sampling import call_seed, choose, row_generator
from mindformers.generation.stopping import (
    LENGTH,
    STOP_STRING,
    StopRules,
    StopStrings,
    StopTextScanner,
    stray_eos_ids,
    tool_call_id,
)
from mindformers.generation.streamer import streaming
from mindformers.logger import logger, warn_once


class ModelRunner(Protocol):
    """A model with a cache, seen from the token loop."""

    vocab_size: int  # V
    max_length: int  # tokens of prompt and answer it can hold

    def prefill(self, prompts: list[list[int]]) -> Array:
        """Read whole prompts; return the next token's logits, (B, V) float32."""

    def decode(self, tokens: Array, rows: Array) -> Array:
        """Read one more token of some rows.

        Args:
            tokens: (A,) int32, the newest token of each.
            rows: (A,) int32, which prompts of ``prefill`` they continue.

        Returns:
            (A, V) float32, the next token's logits.
        """

    def release(self) -> None:
        """Forget the prompts; called once, also after an error."""


@dataclass
class GenerateOutput:
    """What one call gives; a value can also be had as ``output["sequences"]``.

    Args:
        sequences: Per row prompt and answer with the end token, without padding, (L,) int32.
        finish_reasons: Per row ``stop``, ``length``, ``tool_calls`` or ``stop_string``.
        num_prompt_tokens: Per row.
        num_generated: Per row, the end token included.
        seed: What the call drew from; None when it did not draw.
        texts: With stop strings, per row the answer's text before the stop string; else None.
        prefill_seconds: Time to the first token's logits.
        decode_seconds: Time for all that came after.
        scores: With ``output_scores``, per step the processed logits, (B, V) float32; rows that had
            ended hold NaN.
        logits: With ``output_logits``, the same for the model's own logits.
        sequences_scores: Of a search, per row the sum of its log probabilities, over the answer's length
            to the power of ``length_penalty``.
    """

    sequences: list[Array]
    finish_reasons: list[str]
    num_prompt_tokens: list[int]
    num_generated: list[int]
    seed: int | None = None
    texts: list[str] | None = None
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    scores: tuple[Array, ...] | None = None
    logits: tuple[Array, ...] | None = None
    sequences_scores: list[float] | None = None

    def __getitem__(self, name: str) -> Any:
        if name not in self.__dict__:
            raise KeyError(name)
        return self.__dict__[name]

    def keys(self) -> list[str]:
        """Return the names, so that ``dict(output)`` works."""
        return list(self.__dict__)


def generate(
    runner: ModelRunner,
    prompts: Any,
    config: GenerationConfig,
    *,
    streamer: Any = None,
    logits_processors: Any = (),
    tokenizer: Any = None,
    seed: int | None = None,
    constraint: Callable[[], Constraint] | None = None,
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
        return call.run()


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
                scanner = StopTextScanner(strings, open_decoder(tokenizer))
            rows.append(Row(index, buffer, len(prompt), len(prompt), generator, scanner))
        return rows

    def run(self) -> GenerateOutput:
        """Read the prompts, then add tokens until every row has ended."""
        self._put([row.ids for row in self.rows])
        started = time.perf_counter()
        try:
            logits = self.runner.prefill(self.prompts)
            prefilled = time.perf_counter()
            running = self.rows
            while running := self._step(running, logits):
                tokens = np.array([row.buffer[row.length - 1] for row in running], np.int32)
                logits = self.runner.decode(
                    tokens, np.array([row.index for row in running], np.int32)
                )
        finally:
            self.runner.release()
        return self._output(prefilled - started, time.perf_counter() - prefilled)

    def _step(self, running: list[Row], logits: Array) -> list[Row]:
        """Choose a token for each running row; return the rows that go on."""
        logits = np.asarray(logits, dtype=np.float32)
        expected = (len(running), self.runner.vocab_size)
        assert logits.shape == expected, f"runner gave logits {logits.shape}, not {expected}"
        for record in (self.scores, self.logits):
            if record is not None:
                record.add_step(self.runner.vocab_size)
        shown: list[Array] = [np.zeros(0, np.int32)] * len(self.rows)
        for row, own in zip(running, logits, strict=True):
            shown[row.index] = np.array(row.accept(self._choose(row, own), self.rules), np.int32)
        self._put(shown)
        for row in running:
            if row.finish_reason == STOP_STRING and row.scanner is not None:
                self._put_text(row.scanner.last_text)
        return [row for row in running if not row.finish_reason]

    def _choose(self, row: Row, logits: Array) -> int:
        where = f"prompt {row.index}, answer token {row.length - row.prompt_length + 1}"
        scores = self.pipeline(logits, row.ids, row.prompt_length, where, row.constraint)
        for record, values in ((self.scores, scores), (self.logits, logits)):
            if record is not None:
                record.steps[-1][row.index] = values
        return choose(scores, row.generator)

    def _put(self, rows: Sequence[Array]) -> None:
        if self.streamer is None or not any(len(ids) for ids in rows):
            return
        self.streamer.put(rows[0].copy() if len(rows) == 1 else [ids.copy() for ids in rows])

    def _put_text(self, text: str) -> None:
        if text and len(self.rows) == 1 and hasattr(self.streamer, "put_text"):
            self.streamer.put_text(text)

    def _output(self, prefill_seconds: float, decode_seconds: float) -> GenerateOutput:
        generated = [row.length - row.prompt_length for row in self.rows]
        total = prefill_seconds + decode_seconds
        logger.info(
            "total time: %.3f s; generated tokens: %d tokens; generate speed: %.3f tokens/s; "
            "prompt tokens: %d tokens; prefill time: %.3f s",
            total, sum(generated), sum(generated) / max(total, 1e-9), sum(map(len, self.prompts)),
            prefill_seconds,
        )  # fmt: skip
        cut = [row for row in self.rows if row.finish_reason == LENGTH]
        if cut:
            warn_once(
                "an answer was cut at its length limit (%d tokens with the prompt), not ended by "
                "the model: raise max_new_tokens or max_length, and check eos_token_id %s",
                len(cut[0].buffer),
                self.config.eos_token_id,
            )
        texts = [row.scanner.text for row in self.rows if row.scanner is not None]
        return GenerateOutput(
            sequences=[row.ids.copy() for row in self.rows],
            finish_reasons=[row.finish_reason for row in self.rows],
            num_prompt_tokens=[row.prompt_length for row in self.rows],
            num_generated=generated,
            seed=self.seed,
            texts=texts or None,
            prefill_seconds=prefill_seconds,
            decode_seconds=decode_seconds,
            scores=None if self.scores is None else tuple(self.scores.steps),
            logits=None if self.logits is None else tuple(self.logits.steps),
        )


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
