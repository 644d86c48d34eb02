"""Talk to a model in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TextIO

from mindformers.errors import MindFormersError
from mindformers.generation.config import GenerationConfig
from mindformers.generation.streamer import TextStreamer
from mindformers.models.auto import AutoTokenizer
from mindformers.tasks.open_model import open_model

HELP = "/reset forgets the conversation, /system TEXT sets the instruction, /exit leaves; Ctrl-C stops an answer"


class AnswerStreamer(TextStreamer):
    """Writes an answer without the newline that begins every assistant turn."""

    has_begun = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Write ``text``, its first newline left out."""
        if text and not self.has_begun:
            text = self._tokenizer.strip_answer(text, is_whole=False)
            self.has_begun = bool(text) or not self._tokenizer.trims_answers
        super().on_finalized_text(text, stream_end)


def chat(
    model_dir: str | Path,
    *,
    system: str = "",
    keep_history: bool = True,
    device_target: str = "CPU",
    quantization: str | None = None,
    source: TextIO | None = None,
    **settings: Any,
) -> int:
    """Read questions from the terminal and stream the answers until end of input.

    Args:
        model_dir: What ``AutoModel`` and ``AutoTokenizer`` take.
        system: An instruction that stands before the conversation.
        keep_history: False: every question stands alone, for a model that learnt single questions.
        device_target: ``CPU`` or ``Ascend``.
        quantization: ``int8`` or ``int4``: round the weights when they are loaded; None: as they are.
        source: Where questions come from; None: standard input.
        **settings: Fields of ``GenerationConfig``; ``seed``.

    Returns:
        How many questions were answered.

    Raises:
        MindFormersError: If the model or a setting cannot be used; or, where questions are not typed at
            a terminal, a question. At a terminal that is shown, and the next question is read.
    """
    GenerationConfig().merged(
        **{k: v for k, v in settings.items() if k != "seed"}
    )  # or refused now
    network = open_model(model_dir, device_target=device_target, quantization=quantization)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    source = source or sys.stdin
    interactive = source.isatty()
    if interactive:
        sys.stdout.write(f"talk to {model_dir}; {HELP}\n")
    history: list[dict[str, Any]] = []
    answered = 0
    while True:
        question = _read(source, interactive)
        if question is None or question == "/exit":
            return answered
        if question.startswith("/"):
            history, system = _command(question, history, system)
        elif question:
            streamer = AnswerStreamer(tokenizer, skip_prompt=True)
            try:
                _, history = network.chat(
                    tokenizer, question, history, instruction=system, streamer=streamer, **settings
                )
            except KeyboardInterrupt:
                continue
            except MindFormersError as error:
                if not interactive:
                    raise
                sys.stdout.write(f"error: {error}\n")  # the conversation goes on as it was
                continue
            history = history if keep_history else []
            answered += 1


def _read(source: TextIO, interactive: bool) -> str | None:
    if interactive:
        sys.stdout.write("> ")
        sys.stdout.flush()
    line = source.readline()
    return line.strip() if line else None


def _command(
    line: str, history: list[dict[str, Any]], system: str
) -> tuple[list[dict[str, Any]], str]:
    name, _, rest = line.partition(" ")
    if name == "/reset":
        return [], system
    if name == "/system":
        return [], rest.strip()
    sys.stdout.write(f"{HELP}\n")
    return history, system
