"""``GenerateOutput``: what a call of ``generate`` gives, and what the log says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mindformers.generation.array import Array
from mindformers.generation.stopping import LENGTH
from mindformers.logger import logger, warn_once


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
        num_steps: Passes of the model after the prompts.
        num_drafted: Per row, tokens that were guessed.
        num_accepted: Per row, guessed tokens that were right.
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
    num_steps: int = 0
    num_drafted: list[int] = field(default_factory=list)
    num_accepted: list[int] = field(default_factory=list)
    sequences_scores: list[float] | None = None

    def __getitem__(self, name: str) -> Any:
        if name not in self.__dict__:
            raise KeyError(name)
        return self.__dict__[name]

    def keys(self) -> list[str]:
        """Return the names, so that ``dict(output)`` works."""
        return list(self.__dict__)


def report(output: GenerateOutput, eos_ids: Sequence[int]) -> None:
    """Log how fast an output came, what guesses gave, and that an answer was cut off.

    Args:
        output: The output.
        eos_ids: The ids that would have ended an answer.
    """
    seconds = output.prefill_seconds + output.decode_seconds
    generated = sum(output.num_generated)
    logger.info(
        "total time: %.3f s; generated tokens: %d tokens; generate speed: %.3f tokens/s; "
        "prompt tokens: %d tokens; prefill time: %.3f s",
        seconds, generated, generated / max(seconds, 1e-9), sum(output.num_prompt_tokens),
        output.prefill_seconds,
    )  # fmt: skip
    if any(output.num_drafted):
        logger.info(
            "guessed tokens: %d, of them right: %d; passes of the model: %d",
            sum(output.num_drafted), sum(output.num_accepted), output.num_steps,
        )  # fmt: skip
    cut = [row for row, reason in enumerate(output.finish_reasons) if reason == LENGTH]
    if cut:
        warn_once(
            "an answer was cut at its length limit (%d tokens with the prompt), not ended by "
            "the model: raise max_new_tokens or max_length, and check eos_token_id %s",
            len(output.sequences[cut[0]]),
            eos_ids,
        )
