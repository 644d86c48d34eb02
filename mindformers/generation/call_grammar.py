"""What an answer may look like, as grammars in Lark's form: JSON, and calls in each dialect.

Knows text only; ``constraint.py`` compiles it. ``TEXT`` is any text without a control token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mindformers.errors import GenerationError
from mindformers.tokenizer.call_form import tool_name
from mindformers.tokenizer.glm4_calls import MESSAGE_TOKEN
from mindformers.tokenizer.glm45_calls import CLOSE, KEY, KEY_END, OPEN, VALUE, VALUE_END
from mindformers.tokenizer.schema_types import types_of

_TERMINALS = "TEXT: /(.|\\n)*/\nNAME: /(.|\\n)+/\nBLANK: /\\n?/\n"
# Between two parts of a JSON text a blank, or a line end and an indent: no model can fill its answer so.
_BLANKS = r"\x20|\x0A\x20{0,16}"
_THINKS = ("<think>", "</think>")
_DEFINITIONS = ("$defs", "definitions")


class CallGrammar:
    """Writes grammars for one vocabulary.

    Args:
        special_tokens: Id of every token beside the text's, by its text.
        dialect: How the model writes calls.
    """

    def __init__(self, special_tokens: Mapping[str, int], dialect: str) -> None:
        self._ids, self._dialect = special_tokens, dialect
        has_thoughts = all(each in special_tokens for each in _THINKS)
        # Where the prompt has opened the thoughts, only their end is seen.
        self._thoughts = (
            "({}? TEXT {} BLANK BLANK)?".format(*map(self._token, _THINKS)) if has_thoughts else ""
        )

    def json(self, schema: Mapping[str, Any]) -> str:
        """Return the grammar of an answer that is one JSON text, after the newline that begins a turn."""
        return f"start: BLANK {self._thoughts} json\n{_rule('json', schema)}{_TERMINALS}"

    def text(self) -> str:
        """Return the grammar of an answer that calls nothing."""
        return f"start: {self._plain()}\n{_TERMINALS}"

    def calls(
        self,
        tools: Sequence[Mapping[str, Any]],
        *,
        is_forced: bool,
        is_parallel: bool,
        plain: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the grammar of an answer with calls.

        Args:
            tools: The tools that may be called, at least one, as ``callable_tools`` gives them.
            is_forced: The answer is calls alone; otherwise it may be a plain one, or begin as one.
            is_parallel: Several calls may follow one another.
            plain: Schema of the JSON text that a plain answer is; None: it is any text.
        """
        is_glm45 = self._dialect == "glm45"
        rule = self._glm45_call if is_glm45 else self._glm4_call
        between = "BLANK" if is_glm45 else self._token(MESSAGE_TOKEN)
        rules = [rule(f"call_{i}", tool) for i, tool in enumerate(tools)]
        more = f" ({between} call)*" if is_parallel else ""
        start = f"BLANK {self._thoughts} calls" if is_glm45 else f"{self._thoughts} calls"
        if not is_forced and plain is not None:
            start = f"BLANK {self._thoughts} json | {start}"
            rules.append(_rule("json", plain))
        elif not is_forced and is_glm45:
            start = f"{self._plain()} calls?"
        elif not is_forced:
            start = f"{self._plain()} ({between} calls)? | {start}"
        names = " | ".join(f"call_{i}" for i in range(len(tools)))
        return f"start: {start}\ncalls: call{more}\ncall: {names}\n{''.join(rules)}{_TERMINALS}"

    def _plain(self) -> str:
        if self._thoughts:
            return f"BLANK {self._thoughts} TEXT"
        return "BLANK TEXT" if self._dialect == "glm45" else '"\\n" TEXT'

    def _glm4_call(self, rule: str, tool: Mapping[str, Any]) -> str:
        head = _literal(tool_name(tool) + "\n")
        if tool["type"] != "function":
            return f"{rule}: {head} TEXT\n"
        return f"{rule}: {head} {rule}_json\n{_rule(f'{rule}_json', _parameters(tool), _is_strict(tool))}"

    def _glm45_call(self, rule: str, tool: Mapping[str, Any]) -> str:
        schema = _parameters(tool)
        properties, required = schema.get("properties"), schema.get("required")
        properties = properties if isinstance(properties, Mapping) else {}
        required = required if isinstance(required, list) else []
        rules, parts = [], []
        for i, (key, value) in enumerate(properties.items()):
            name = f"{rule}_{i}"
            parts.append(name if key in required else f"{name}?")
            rules.append(self._argument(name, _literal(key), self._value(name, schema, key, value)))
        if not properties:
            parts.append(f"{rule}_any*")
            rules.append(self._argument(f"{rule}_any", "NAME", ("TEXT", "")))
        head = f"{self._token(OPEN)} {_literal(tool_name(tool))} BLANK"
        return f"{rule}: {head} {' '.join(parts)} {self._token(CLOSE)}\n{''.join(rules)}"

    def _argument(self, rule: str, key: str, value: tuple[str, str]) -> str:
        tag = self._token
        form, rules = value
        return (
            f"{rule}: {tag(KEY)} {key} {tag(KEY_END)} BLANK "
            f"{tag(VALUE)} {form} {tag(VALUE_END)} BLANK\n{rules}"
        )

    @staticmethod
    def _value(rule: str, root: Mapping[str, Any], key: str, schema: Any) -> tuple[str, str]:
        """Return how a value is written, and the rules that takes: strings stand without quotes."""
        choices = None
        if isinstance(schema, Mapping):
            choices = [schema["const"]] if "const" in schema else schema.get("enum")
        if "string" not in types_of(root, key):
            shared = {name: root[name] for name in _DEFINITIONS if name in root}
            return f"{rule}_json", _rule(f"{rule}_json", {**schema, **shared})
        if isinstance(choices, list) and choices and all(map(_is_word, choices)):
            return f"({' | '.join(map(_literal, choices))})", ""
        return "TEXT", ""

    def _token(self, text: str) -> str:
        if text not in self._ids:
            raise GenerationError(
                f"the tokenizer has no token {text!r}, with which {self._dialect} writes calls",
                fix="take the tokenizer's files of the model's own directory",
            )
        return f"<[{self._ids[text]}]>"


def _parameters(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of a tool's arguments; they are always an object."""
    schema = tool["function"].get("parameters") or {}
    return {"type": "object", **schema} if isinstance(schema, Mapping) else {"type": "object"}


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_strict(tool: Mapping[str, Any]) -> bool:
    return bool(tool["function"].get("strict"))


def _rule(name: str, schema: Mapping[str, Any], is_strict: bool = True) -> str:
    """Return the rule of a JSON text; keywords the grammar cannot express are an error if strict."""
    options = {"whitespace_pattern": _BLANKS, "lenient": not is_strict}
    full = {**schema, "x-guidance": options}
    return f"{name}: %json {json.dumps(full, ensure_ascii=False)}\n"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
