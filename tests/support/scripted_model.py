"""A model that says what a test wrote down, through a real tokenizer and the real streamer calls."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from mindformers.generation.config import GenerationConfig
from mindformers.generation.engine import GenerateOutput

REASONS = {"<|user|>": "stop", "<|endoftext|>": "stop", "<|observation|>": "tool_calls"}


class ScriptedNetwork:
    """Gives answers in order, each a text with its control tokens; without an end token it was cut.

    Args:
        answers: What it says; or a function of the prompt's text.
        seconds: Between two tokens.
        seq_length: Tokens of prompt and answer.
    """

    def __init__(
        self,
        answers: Sequence[str] | Callable[[str], str],
        seconds: float = 0.0,
        seq_length: int = 4096,
    ) -> None:
        self.answers = answers if callable(answers) else iter(answers)
        self.seconds = seconds
        self.config = SimpleNamespace(seq_length=seq_length)
        self.prompts: list[str] = []
        self.settings: list[dict[str, Any]] = []

    def generation_defaults(self) -> GenerationConfig:
        return GenerationConfig()

    def close(self) -> None:
        """Hold nothing."""

    def generate(
        self, prompts: Any, *, streamer: Any, tokenizer: Any, seed: Any = None, **settings: Any
    ) -> GenerateOutput:
        (prompt,) = prompts
        self.prompts.append(
            tokenizer.decode(prompt, skip_special_tokens=False, spaces_between_special_tokens=False)
        )
        self.settings.append({"seed": seed, **settings})
        said = self.answers(self.prompts[-1]) if callable(self.answers) else next(self.answers)
        ids = encoded(tokenizer, said)
        streamer.put(np.array(prompt, np.int32))
        for token in ids:
            time.sleep(self.seconds)
            streamer.put(np.array([token], np.int32))
        streamer.end()
        last = said[said.rfind("<|") :] if said.endswith("|>") else ""
        return GenerateOutput(
            [np.array([*prompt, *ids], np.int32)],
            [REASONS.get(last, "length")],
            [len(prompt)],
            [len(ids)],
        )


def encoded(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text in which control tokens stand as text."""
    marks = "|".join(map(re.escape, tokenizer.special_tokens))
    parts = [part for part in re.split(f"({marks})", text) if part]
    return tokenizer.encode_segments([(p, p in tokenizer.special_tokens) for p in parts])
