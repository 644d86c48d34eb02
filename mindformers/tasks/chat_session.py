"""A conversation that is going on: what was said, the settings, the tools, and the counts."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindformers.agent.cached_model import Answer
from mindformers.agent.loop import ToolLimits, ToolRun, Watcher, as_tools, run_tools, schemas_of
from mindformers.agent.tool import Tool
from mindformers.checkpoint.atomic import write_text
from mindformers.checkpoint.json_file import read_json
from mindformers.errors import ConfigError, DataError, TokenizerError
from mindformers.generation.config import GenerationConfig
from mindformers.tokenizer.conversation import normalise_messages


@dataclass
class Counts:
    """Sums over the answers of a conversation."""

    answers: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    seconds: float = 0.0
    context_tokens: int = 0  # of the last prompt and its answer

    def add(self, found: Answer) -> None:
        """Add an answer."""
        self.answers += 1
        self.prompt_tokens += found.prompt_tokens
        self.cached_tokens += found.cached_tokens
        self.completion_tokens += found.completion_tokens
        self.drafted_tokens += found.drafted_tokens
        self.accepted_tokens += found.accepted_tokens
        self.seconds += found.seconds
        self.context_tokens = found.prompt_tokens + found.completion_tokens


class ChatSession:
    """A conversation with a model; every method leaves it as it was when it raises.

    Args:
        network: The model.
        tokenizer: Its tokenizer.
        system: An instruction that stands before the conversation.
        keep_history: False: every question stands alone.
        tools: What the model may call.
        limits: How far it may go with them.
        settings: Fields of ``GenerationConfig``; ``seed``.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        *,
        system: str = "",
        keep_history: bool = True,
        tools: Sequence[Tool] = (),
        limits: ToolLimits = ToolLimits(),  # noqa: B008 -- frozen
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.network, self.tokenizer, self.system = network, tokenizer, system
        self.keep_history, self.limits = keep_history, limits
        self.tools = as_tools(tools)
        self.settings = dict(settings or {})
        check_settings(self.settings)
        self.messages: list[dict[str, Any]] = []
        self.counts = Counts()
        self._last_question = ""
        self._draws = 0  # how often the last question was asked again
        self._own_files: set[Path] = set()

    def ask(self, question: str, watcher: Watcher, stop: threading.Event) -> ToolRun:
        """Answer a question; what was said until ``stop`` was set is kept.

        Raises:
            MindFormersError: If the question or a setting cannot be used.
        """
        self._draws = 0
        return self._ask(question, watcher, stop)

    def ask_again(self, watcher: Watcher, stop: threading.Event) -> ToolRun:
        """Answer the last question anew, with other draws.

        Raises:
            DataError: If nothing was asked.
            MindFormersError: As ``ask``.
        """
        if not self._last_question:
            raise DataError("nothing was asked yet")
        before, draws = list(self.messages), self._draws
        if self.messages:
            self.undo()
        self._draws = draws + 1
        try:
            return self._ask(self._last_question, watcher, stop)
        except BaseException:
            self.messages = before
            raise

    def _ask(self, question: str, watcher: Watcher, stop: threading.Event) -> ToolRun:
        messages = list(self.messages)
        if self.system and not any(message["role"] == "system" for message in messages):
            messages.insert(0, {"role": "system", "content": self.system})
        messages.append({"role": "user", "content": question})
        settings = dict(self.settings)
        if settings.get("seed") is not None:
            settings["seed"] += self._draws
        run = run_tools(
            self.network,
            self.tokenizer,
            messages,
            list(self.tools.values()),
            limits=self.limits,
            watcher=watcher,
            stop=stop,
            **settings,
        )
        for found in run.answers:
            self.counts.add(found)
        self._last_question = question
        self.messages = run.messages if self.keep_history else []
        return run

    def undo(self) -> str:
        """Take back the last question and all that followed; return the question.

        Raises:
            DataError: If nothing was asked, or no conversation is kept.
        """
        asked = [n for n, message in enumerate(self.messages) if message["role"] == "user"]
        if not asked:
            raise self._nothing("there is nothing to take back")
        question = str(normalise_messages([self.messages[asked[-1]]])[0]["content"])
        self.messages = self.messages[: asked[-1]]
        return question

    def reset(self, system: str | None = None) -> None:
        """Forget the conversation; with ``system``, begin one under that instruction."""
        self.messages, self._last_question = [], ""
        if system is not None:
            self.system = system

    def set(self, name: str, value: Any) -> None:
        """Change a setting of generation; None takes it back to the model's own.

        Raises:
            GenerationError: If there is no such setting or the value is out of range.
        """
        changed = {key: old for key, old in self.settings.items() if key != name}
        if value is not None:
            changed[name] = value
        check_settings({name: value, **changed})
        self.settings = changed

    def save(self, path: str | Path) -> int:
        """Write the conversation as one line of JSON, ``{"messages": [...], "tools": [...]}``.

        OpenAI's form, and a row of training data. The file is whole or not there.

        Returns:
            How many messages were written.

        Raises:
            DataError: If nothing was said, no conversation is kept, or another file has this name.
            CheckpointError: If it cannot be written.
        """
        path = Path(path).expanduser()
        if not self.messages:
            raise self._nothing("nothing was said yet")
        if path.exists() and path.resolve() not in self._own_files:
            raise DataError(
                "the file exists already", where=str(path), fix="choose another name, or remove it"
            )
        content: dict[str, Any] = {"messages": self.messages}
        if self.tools:
            content["tools"] = schemas_of(self.tools.values(), self.tokenizer)
        write_text(path, json.dumps(content, ensure_ascii=False) + "\n")
        self._own_files.add(path.resolve())
        return len(self.messages)

    def load(self, path: str | Path) -> int:
        """Go on with a conversation that was saved, or written elsewhere in OpenAI's form.

        Returns:
            How many messages it has.

        Raises:
            DataError: If the file holds no conversation.
        """
        path = Path(path).expanduser()
        messages = read_json(path, DataError).get("messages")
        try:
            read = normalise_messages(messages)
        except TokenizerError as error:
            raise DataError(
                f"{error.where}: {error.found}" if error.where else error.found,
                where=str(path),
                allowed=error.allowed,
                fix=error.fix,
            ) from error
        assert isinstance(messages, list)  # normalise_messages takes no other from JSON
        self.messages = [dict(message) for message in messages]
        if read[0]["role"] == "system":
            self.system = read[0]["content"]
        self._last_question = next(
            (m["content"] for m in reversed(read) if m["role"] == "user"), ""
        )
        self._own_files.add(path.resolve())
        return len(self.messages)

    def _nothing(self, found: str) -> DataError:
        if self.keep_history:
            return DataError(found)
        return DataError(
            "no conversation is kept: every question stands alone",
            fix="start without --no_history",
        )


def check_settings(settings: dict[str, Any]) -> None:
    """Check settings of generation and the seed before anything is loaded or changed.

    Raises:
        GenerationError: If there is no such setting or a value is out of range.
        ConfigError: If the seed is no whole number from 0 on.
    """
    seed = settings.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise ConfigError(f"found {seed!r}", where="seed", allowed="a whole number from 0 on")
    GenerationConfig().merged(**{k: v for k, v in settings.items() if k != "seed"})
