"""Talk to a model in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TextIO

from mindformers.generation.streamer import TextStreamer
from mindformers.logger import logger
from mindformers.models.auto import AutoModel, AutoTokenizer
from mindformers.parallel.runtime import start_runtime

HELP = "/reset forgets the conversation, /system TEXT sets the instruction, /exit leaves; Ctrl-C stops an answer"


def chat(
    model_dir: str | Path,
    *,
    system: str = "",
    device_target: str = "CPU",
    source: TextIO | None = None,
    **settings: Any,
) -> int:
    """Read questions from the terminal and stream the answers until end of input.

    Args:
        model_dir: What ``AutoModel`` and ``AutoTokenizer`` take.
        system: An instruction that stands before the conversation.
        device_target: ``CPU`` or ``Ascend``.
        source: Where questions come from; None: standard input.
        **settings: Fields of ``GenerationConfig``; ``seed``.

    Returns:
        How many questions were answered.
    """
    start_runtime(
        device_target=device_target, mode=1
    )  # PyNative: the first answer waits for no compiler
    network, tokenizer = (
        AutoModel.from_pretrained(model_dir),
        AutoTokenizer.from_pretrained(model_dir),
    )
    source = source or sys.stdin
    interactive = source.isatty()
    if interactive:
        logger.info("talk to %s; %s", model_dir, HELP)
    history: list[dict[str, Any]] = []
    answered = 0
    while True:
        question = _read(source, interactive)
        if question is None or question == "/exit":
            return answered
        if question.startswith("/"):
            history, system = _command(question, history, system)
        elif question:
            streamer = TextStreamer(tokenizer, skip_prompt=True)
            try:
                _, history = network.chat(
                    tokenizer, question, history, instruction=system, streamer=streamer, **settings
                )
            except KeyboardInterrupt:
                continue
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
