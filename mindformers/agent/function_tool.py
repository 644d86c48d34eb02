"""A Python function as a tool."""

from __future__ import annotations

import functools
import inspect
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from mindformers.agent.function_schema import Parameters
from mindformers.agent.tool import run_in_time
from mindformers.errors import ConfigError, ToolError
from mindformers.tokenizer.json_text import to_json

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class FunctionTool:
    """A function that a model may call.

    Args:
        function: Its name is the tool's, the first paragraph of its docstring the description, and
            what the docstring says under ``Args:`` describes the parameters; see ``Parameters``.

    Raises:
        ConfigError: If its name has other characters than letters, digits, ``_`` and ``-``, or a
            parameter cannot be said in JSON.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name = str(getattr(function, "__name__", type(function).__name__))
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"no model can call a function named {self.name!r}",
                where="tools",
                allowed="1 to 64 letters, digits, _ and -",
            )
        self._parameters = Parameters(function, self.name)
        self.schema: Mapping[str, Any] = {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self._parameters.description,
                "parameters": self._parameters.schema,
            },
        }

    def call(self, arguments: str, seconds: float, stop: threading.Event) -> str:
        """Call the function with a JSON object of arguments; return its result as text.

        Raises:
            ToolError: If the arguments do not fit, the function raises, or its time is up.
        """
        values = self._parameters.values(arguments)
        try:
            return as_text(run_in_time(functools.partial(self._run, values), seconds, stop))
        except ToolError:
            raise
        except (Exception, SystemExit) as error:  # what a tool raises may not end the conversation
            raise ToolError(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Do nothing: nothing is held."""

    def _run(self, values: dict[str, Any]) -> Any:
        result = self.function(**values)
        if not inspect.iscoroutine(result):
            return result
        import asyncio  # takes its time to load

        return asyncio.run(result)


def as_text(value: Any) -> str:
    """Return what a model reads of a result: a text as it is, all else as JSON, else as ``str``."""
    if isinstance(value, str):
        return value
    try:
        return to_json(to_jsonable_python(value))
    except PydanticSerializationError:  # of no type that JSON knows
        return str(value)
