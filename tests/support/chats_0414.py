"""Conversations in the dialect of GLM-4-0414 and GLM-Z1, for the oracle's script and for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEMPLATES = {
    name: (Path(__file__).parents[1] / "golden" / "chat" / f"{name}.jinja")
    .read_text(encoding="utf-8")
    .rstrip("\n")
    for name in ("glm4_0414", "glm_z1")
}
MARKERS: dict[str, tuple[str, ...]] = {"glm4_0414": (), "glm_z1": ("<think>", "</think>")}
_WEATHER = {
    "name": "weather",
    "description": "天气 of a <city> & more",
    "parameters": {"type": "object", "properties": {"name": {"type": "string"}}},
}
_USER = {"role": "user", "content": "Hello world 你好"}
_THOUGHT = "that is one and two</think>\nthe answer is three"
CHATS: dict[str, dict[str, Any]] = {
    "one_user": {"messages": [_USER]},
    "system_anywhere": {
        "messages": [_USER, {"role": "system", "content": "You are a 助手."}],
    },
    "turns": {
        "messages": [
            {"role": "system", "content": "on\n\n"},
            _USER,
            {"role": "assistant", "content": _THOUGHT},
            {"role": "user", "content": "  and you\n"},
        ],
    },
    "no_prompt": {
        "messages": [_USER, {"role": "assistant", "content": "今天 天气"}],
        "add_generation_prompt": False,
    },
    "tools": {
        "messages": [
            {"role": "system", "content": "the tools"},
            _USER,
            {"role": "assistant", "metadata": "weather", "content": '{"name": "北京"}'},
            {"role": "observation", "content": '{"weather": 21}'},
            {"role": "assistant", "content": "21"},
            _USER,
        ],
        "tools": [{"type": "function", "function": _WEATHER}],
    },
}
