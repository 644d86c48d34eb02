"""Talk to a model in the terminal, and let it use tools."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from mindformers.agent.cached_model import CachedModel
from mindformers.agent.loop import ToolLimits
from mindformers.agent.tool import Tool
from mindformers.errors import MindFormersError
from mindformers.logger import logger
from mindformers.models.auto import AutoTokenizer
from mindformers.tasks.chat_commands import HELP, Then, run_command
from mindformers.tasks.chat_input import QuestionReader
from mindformers.tasks.chat_session import ChatSession, check_settings
from mindformers.tasks.chat_view import ChatView, TerminalView, open_view
from mindformers.tasks.open_model import open_model


def chat(  # noqa: PLR0913 -- the options of a command
    model_dir: str | Path,
    *,
    system: str = "",
    keep_history: bool = True,
    device_target: str = "CPU",
    quantization: str | None = None,
    tools: Sequence[Tool] = (),
    limits: ToolLimits = ToolLimits(),  # noqa: B008 -- frozen
    load: str | Path | None = None,
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
        tools: What the model may call; they are closed at the end.
        limits: How far it may go with them.
        load: A saved conversation to go on with.
        source: Where questions come from; None: standard input.
        **settings: Fields of ``GenerationConfig``; ``seed``.

    Returns:
        How many questions were answered.

    Raises:
        MindFormersError: If the model or a setting cannot be used; or, where questions are not typed at
            a terminal, a question. At a terminal that is shown, and the next question is read.
    """
    with ExitStack() as held:
        for tool in tools:
            held.callback(tool.close)
        check_settings(settings)
        source = source or sys.stdin
        view = open_view(source.isatty())
        reader = QuestionReader(source, view)
        model, tokenizer = open_chat(model_dir, device_target, quantization)
        held.callback(model.close)
        session = ChatSession(
            model,
            tokenizer,
            system=system,
            keep_history=keep_history,
            tools=tools,
            limits=limits,
            settings=settings,
        )
        if load is not None:
            session.load(load)
        _greet(view, model_dir, reader.is_interactive)
        return _converse(session, reader, view)


def open_chat(model_dir: str | Path, device_target: str, quantization: str | None) -> Any:
    """Return the model of a directory behind an engine, and its tokenizer."""
    network = open_model(model_dir, device_target=device_target, quantization=quantization)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    return CachedModel(network, tokenizer), tokenizer


def _greet(view: ChatView, model_dir: str | Path, is_interactive: bool) -> None:
    if is_interactive:
        view.say(f"talk to {model_dir}; {HELP}")
    if isinstance(view, TerminalView):
        logger.setLevel(logging.ERROR)  # the view itself says why an answer was cut


def _converse(session: ChatSession, reader: QuestionReader, view: ChatView) -> int:
    answered = 0
    while (line := reader.read()) is not None:
        try:
            is_command = line.startswith("/")
            then = run_command(line, session, view) if is_command else Then.READ
            if then is Then.LEAVE:
                break
            if then is Then.ASK_AGAIN or (line and not is_command):
                _answer(None if is_command else line, session, view)
                answered += 1
        except KeyboardInterrupt:  # a second one: nothing is kept of this answer
            view.say("")
        except MindFormersError as error:
            if not reader.is_interactive:
                raise
            view.error(error)  # the conversation goes on as it was
    return answered


def _answer(question: str | None, session: ChatSession, view: ChatView) -> None:
    """Show the answer to a question; None: to the last one, anew."""
    with stopping_on_interrupt() as stop:
        run = (
            session.ask_again(view, stop) if question is None else session.ask(question, view, stop)
        )
    view.ended(run)


@contextmanager
def stopping_on_interrupt() -> Iterator[threading.Event]:
    """Give what Ctrl-C sets while inside; a second Ctrl-C raises KeyboardInterrupt at once."""
    stop = threading.Event()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            signal.default_int_handler(number, frame)
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
