"""What begins with ``/`` in the terminal chat."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mindformers.errors import ConfigError, did_you_mean
from mindformers.generation.config_fields import FIELDS
from mindformers.tasks.chat_session import ChatSession
from mindformers.tasks.chat_view import ChatView

HELP = (
    "/reset forgets the conversation, /system TEXT sets the instruction, /help shows all commands, "
    "/exit leaves; Ctrl-C stops an answer"
)


class Then(Enum):
    """What comes after a command."""

    READ, ASK_AGAIN, LEAVE = range(3)


@dataclass(frozen=True)
class Command:
    """A command: what stands behind it, what it does in words, and doing it."""

    usage: str
    help: str
    run: Callable[[ChatSession, ChatView, str], Then | None]  # None: the next line is read


def run_command(line: str, session: ChatSession, view: ChatView) -> Then:
    """Run the command a line names and return what comes next; an unknown one is named with the nearest there is.

    Raises:
        MindFormersError: If it cannot be done; nothing has changed then.
    """
    name, _, rest = line.partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        hint = did_you_mean(name, COMMANDS) or "/help shows all commands"
        view.say(f"no command is called {name!r}; {hint}")
        return Then.READ
    return command.run(session, view, rest.strip()) or Then.READ


def _reset(session: ChatSession, view: ChatView, _: str) -> None:
    session.reset()


def _system(session: ChatSession, view: ChatView, text: str) -> None:
    session.reset(text)


def _tools(session: ChatSession, view: ChatView, _: str) -> None:
    if not session.tools:
        view.say("no tools; start with --tools FILE.py, --python or --browser FOLDER")
    for name, tool in session.tools.items():
        described = tool.schema.get("function", {}).get("description", "")
        view.say(f"{name:<16} {described or 'built into GLM-4'}")


def _save(session: ChatSession, view: ChatView, path: str) -> None:
    view.say(f"{session.save(_needed(path, '/save FILE'))} messages written to {path}")


def _load(session: ChatSession, view: ChatView, path: str) -> None:
    view.say(f"{session.load(_needed(path, '/load FILE'))} messages; the conversation goes on")


def _undo(session: ChatSession, view: ChatView, _: str) -> None:
    view.say(f"taken back: {session.undo()}")


def _stats(session: ChatSession, view: ChatView, _: str) -> None:
    counts = session.counts
    speed = counts.completion_tokens / counts.seconds if counts.seconds else 0.0
    length = getattr(session.network.config, "seq_length", None)
    for name, value in (
        ("answers", f"{counts.answers}"),
        ("prompt tokens", f"{counts.prompt_tokens} ({counts.cached_tokens} of them cached)"),
        ("answer tokens", f"{counts.completion_tokens} ({speed:.1f} tokens/s)"),
        ("guessed tokens", f"{counts.drafted_tokens} ({counts.accepted_tokens} of them right)"),
        ("context", f"{counts.context_tokens} of {length or 'unlimited'} tokens"),
    ):
        view.say(f"{name:<16} {value}")


def _set(session: ChatSession, view: ChatView, text: str) -> None:
    name, _, value = text.partition(" ")
    own = session.network.generation_defaults()
    if not name:
        for known in ("do_sample", "temperature", "top_p", "top_k", "max_new_tokens"):
            view.say(f"{known:<20} {session.settings.get(known, getattr(own, known))}")
        for known in sorted(set(session.settings) - set(FIELDS)):
            view.say(f"{known:<20} {session.settings[known]}")
        return
    session.set(name, _value(value.strip()))
    view.say(f"{name} = {session.settings.get(name, 'as the model has it')}")
    is_drawn = session.settings.get("do_sample", own.do_sample)
    if name in ("temperature", "top_p", "top_k", "seed") and not is_drawn:
        view.say("has an effect after: /set do_sample true")


def _help(session: ChatSession, view: ChatView, _: str) -> None:
    for name, command in COMMANDS.items():
        view.say(f"{f'{name} {command.usage}':<20} {command.help}")
    view.say('Alt-Enter, or """ before and after, makes a question of several lines;')
    view.say("Ctrl-C stops an answer and keeps what was said, Ctrl-D leaves")


def _value(text: str) -> Any:
    """Return what a typed value means: a number, a truth value, a list; all else is text."""
    lowered = text.lower()
    if lowered in ("", "none", "null", "default"):
        return None
    try:
        return json.loads(lowered if lowered in ("true", "false") else text)
    except ValueError:
        return text


def _needed(text: str, usage: str) -> str:
    if not text:
        raise ConfigError("no file was named", allowed=usage)
    return text


COMMANDS = {
    "/help": Command("", "shows this", _help),
    "/reset": Command("", "forgets the conversation", _reset),
    "/system": Command("TEXT", "forgets it and sets the instruction", _system),
    "/undo": Command("", "takes the last question back", _undo),
    "/regenerate": Command("", "answers the last question anew", lambda *_: Then.ASK_AGAIN),
    "/set": Command("NAME VALUE", "changes a setting; alone: shows them", _set),
    "/stats": Command("", "counts tokens", _stats),
    "/tools": Command("", "lists the tools", _tools),
    "/save": Command("FILE", "writes the conversation as JSON", _save),
    "/load": Command("FILE", "goes on with one", _load),
    "/exit": Command("", "leaves", lambda *_: Then.LEAVE),
}
