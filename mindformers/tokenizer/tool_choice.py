"""OpenAI's ``tool_choice``: which of the tools an answer may or has to call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mindformers.errors import TokenizerError, did_you_mean
from mindformers.tokenizer.call_form import tool_name

Mode = Literal["auto", "required", "named", "none"]
_MODES: tuple[Mode, ...] = ("auto", "required", "none")


def chosen_tools(
    tools: Sequence[Mapping[str, Any]], choice: Any = "auto"
) -> tuple[list[Mapping[str, Any]], Mode]:
    """Return the tools that may be called, and whether one has to be.

    Args:
        tools: As ``normalise_tools`` gives them.
        choice: ``auto`` or None, ``required``, ``none``, or
            ``{"type": "function", "function": {"name": NAME}}``.

    Returns:
        The tools, none for ``none``; and the mode, ``named`` where one tool is named.

    Raises:
        TokenizerError: If there is no such choice or no such tool, or no tool where one is required.
    """
    if isinstance(choice, Mapping):
        return [_named(tools, choice)], "named"
    mode = next((each for each in _MODES if each == (choice or "auto")), None)
    if mode is None:
        raise TokenizerError(
            f"found {choice!r:.80}",
            where="tool_choice",
            allowed=f'{", ".join(_MODES)}, {{"type": "function", "function": {{"name": NAME}}}}',
            fix=did_you_mean(str(choice), _MODES),
        )
    if mode == "required" and not tools:
        raise TokenizerError("a call is required, and there is no tool", where="tool_choice")
    return ([] if mode == "none" else list(tools)), mode


def _named(tools: Sequence[Mapping[str, Any]], choice: Mapping[str, Any]) -> Mapping[str, Any]:
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
    if name is None:
        name = choice.get("type")  # a built-in tool is chosen by its type
    names = {tool_name(tool): tool for tool in tools}
    if name not in names:
        raise TokenizerError(
            f"there is no tool {name!r:.80}",
            where="tool_choice",
            allowed=", ".join(names) or "no tool is given",
            fix=did_you_mean(str(name), names),
        )
    return names[name]
