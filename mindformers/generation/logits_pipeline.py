"""``LogitsPipeline``: what a call's settings do to a row of logits, in order."""

from __future__ import annotations

from typing import Any

import numpy as np

from mindformers.generation.array import Array
from mindformers.generation.config import GenerationConfig
from mindformers.generation.logits import (
    BadWords,
    Bias,
    LogitsProcessorList,
    apply_temperature,
    check_processors,
    forbid_from,
    forbid_ids,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    normalize,
    penalize_presence,
    penalize_repetition,
    require_choice,
)
from mindformers.generation.request import Constraint
from mindformers.logger import warn_once
from mindformers.ops.native.library import is_native
from mindformers.ops.native.sampling import sharpen


class LogitsPipeline:
    """Every step between a model's logits and the scores a token is chosen by, in upstream's order.

    logit_bias, repetition, presence and frequency penalty, bad_words_ids, min_length, min_new_tokens, the
    user's rules, ids without a token, the constraint, renormalization; when sampling also temperature,
    top-k, top-p and min-p.

    Args:
        config: The call's settings.
        vocab_size: V, length of a row.
        processors: The user's rules.
        allowed_vocab_size: Ids from here on are never produced; None: all may be.
    """

    def __init__(
        self,
        config: GenerationConfig,
        vocab_size: int,
        processors: Any = (),
        allowed_vocab_size: int | None = None,
    ) -> None:
        self._config = config
        self._processors = LogitsProcessorList(check_processors(processors))
        self._allowed = min(allowed_vocab_size or vocab_size, vocab_size)
        self._vocab_size = vocab_size
        self._bias = Bias(config.logit_bias, vocab_size)
        self._bad_words = BadWords(config.bad_words_ids)
        self._is_native = is_native()
        if config.do_sample and config.top_k > vocab_size:
            warn_once(
                "top_k %d is above the vocabulary of %d ids: all are kept", config.top_k, vocab_size
            )

    def __call__(
        self,
        logits: Array,
        ids: Array,
        prompt_length: int,
        where: str = "",
        constraint: Constraint | None = None,
    ) -> Array:
        """Return the scores of one row.

        Args:
            logits: (V,) float32, left unchanged.
            ids: (L,) int32, prompt and answer so far.
            prompt_length: Tokens of the prompt among them.
            where: Names the row in an error.
            constraint: What else rules tokens out.

        Returns:
            (V,) float32, -inf where ruled out.

        Raises:
            GenerationError: If no token can be chosen, or a user's rule returns a wrong shape.
        """
        require_choice(logits, where)
        scores = self._apply_penalties(logits, ids, prompt_length)
        allowed = None if constraint is None else constraint.allowed()
        scores = self._held_to(allowed, self._apply_bans(scores, ids, prompt_length), scores)
        if scores is not logits:
            require_choice(scores, where)
        if self._config.renormalize_logits:
            scores = normalize(scores)
        return scores if self._config.is_greedy else self._sharpen(scores)

    def _apply_penalties(self, logits: Array, ids: Array, prompt_length: int) -> Array:
        config = self._config
        if config.logit_bias:
            logits = self._bias(logits)
        if config.repetition_penalty != 1:
            logits = penalize_repetition(logits, ids, config.repetition_penalty)
        answer = ids[prompt_length:]
        if len(answer) and (config.presence_penalty or config.frequency_penalty):
            penalties = (config.presence_penalty, config.frequency_penalty)
            logits = penalize_presence(logits, answer, *penalties)
        return logits

    def _apply_bans(self, logits: Array, ids: Array, prompt_length: int) -> Array:
        config = self._config
        if config.bad_words_ids:
            logits = forbid_ids(logits, self._bad_words.banned_after(ids))
        answer_length = len(ids) - prompt_length
        if len(ids) < config.min_length or answer_length < (config.min_new_tokens or 0):
            logits = forbid_ids(logits, config.eos_token_id)
        if self._processors:
            # A rule may write into what it is given; ours stays as it was.
            logits = self._processors(logits[np.newaxis].copy(), ids[np.newaxis].copy())[0]
        return forbid_from(logits, self._allowed) if self._allowed < self._vocab_size else logits

    def _held_to(self, allowed: Array | None, scores: Array, unbanned: Array) -> Array:
        """Rule out what a constraint does not allow; where bans left nothing of that, they give way."""
        if allowed is None:
            return scores
        held = np.where(allowed, scores, -np.inf)
        return held if held.max() > -np.inf else np.where(allowed, unbanned, -np.inf)

    def _sharpen(self, logits: Array) -> Array:
        config = self._config
        if self._is_native:
            logits = sharpen(logits, config.temperature, config.top_k, config.top_p)
        else:
            logits = apply_temperature(logits, config.temperature)
            logits = keep_top_p(keep_top_k(logits, config.top_k), config.top_p)
        return keep_min_p(logits, config.min_p)
