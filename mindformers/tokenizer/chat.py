"""Render a conversation into segments: a template's control tokens, and text that never is one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers.errors import TokenizerError
from mindformers.tokenizer.call_form import builtin_names, openai_form
from mindformers.tokenizer.conversation import Message, normalise_messages, normalise_tools
from mindformers.tokenizer.injection import TextMarker, choose_sentinel, map_strings, strings_in
from mindformers.tokenizer.plain_chat import PlainChat
from mindformers.tokenizer.special_tokens import Segment, SpecialTokens

if TYPE_CHECKING:
    from mindformers.tokenizer.sandbox import CompiledTemplate

__all__ = ["ChatTemplate", "Segment", "chat_template", "default_template"]

_READS_TOOL_ROLE = re.compile(r"""==\s*['"]tool['"]""")
# An assistant's own words may hold the markers it wrote itself (<think>), where a family has such.
_OWN_WORDS = ("content", "reasoning_content")


@lru_cache(maxsize=1)
def default_template() -> str:
    """Return the chat template of glm-4-9b-chat."""
    return (
        (Path(__file__).parent / "glm4_chat_template.jinja")
        .read_text(encoding="utf-8")
        .rstrip("\n")
    )


@lru_cache(maxsize=16)
def chat_template(source: str, special_tokens: SpecialTokens) -> ChatTemplate:
    """Return the ``ChatTemplate`` of a source, made once per table of special tokens."""
    return ChatTemplate(source, special_tokens)


class ChatTemplate:
    """A chat template together with the special tokens it may write.

    Args:
        source: Jinja text in Hugging Face's dialect.
        special_tokens: Only these become control segments, and only where the template itself wrote
            them.

    Raises:
        TokenizerError: If the source is no valid template.
    """

    def __init__(self, source: str, special_tokens: SpecialTokens) -> None:
        self._source = source
        self._special_tokens = special_tokens
        # Newer templates of the family read OpenAI's tool messages themselves.
        self._keep_tool_form = "tool_calls" in source or bool(_READS_TOOL_ROLE.search(source))
        self._openai_only = self._keep_tool_form and "metadata" not in source
        self._plain: PlainChat | None = None
        if source == default_template():
            self._plain = PlainChat(special_tokens)
        else:
            _ = self._compiled  # a faulty template is told of at once

    @cached_property
    def _compiled(self) -> CompiledTemplate:
        # Loaded when needed: Jinja takes longer to load than a small data set to encode.
        from mindformers.tokenizer.sandbox import compile_template

        return compile_template(self._source)

    @cached_property
    def _marker(self) -> TextMarker:
        return TextMarker(self._special_tokens.by_text)

    @cached_property
    def _own_marker(self) -> TextMarker:
        tokens = self._special_tokens.by_text.values()
        controls = [token.content for token in tokens if token.special]
        return self._marker if len(controls) == len(tokens) else TextMarker(controls)

    @cached_property
    def _reads_tools(self) -> bool:
        return self._compiled.reads_before_setting("tools")

    @property
    def variables(self) -> frozenset[str]:
        """The names the template reads beside ``messages`` and ``tools``."""
        return self._compiled.variables - {"messages", "tools", "add_generation_prompt"}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        variables: Mapping[str, Any] | None = None,
        constants: Mapping[str, Any] | None = None,
    ) -> list[Segment]:
        """Return the prompt as segments; their texts joined are the plain rendering.

        Args:
            messages: The conversation, in GLM or OpenAI form.
            tools: Tool schemas; where the template does not read them itself they go on the system
                message.
            add_generation_prompt: End with the assistant's token, for the model to go on from.
            variables: Further values the template reads; they are text of others too.
            constants: Values of the tokenizer's own, such as ``eos_token``: may be control tokens.

        Raises:
            TokenizerError: If the conversation or the tools are malformed, or the template fails.
        """
        schemas = normalise_tools(tools) if tools else None
        conversation = normalise_messages(
            messages, keep_tool_form=self._keep_tool_form, builtin=builtin_names(schemas or ())
        )
        if self._openai_only:
            conversation = openai_form(conversation)
        if self._plain is not None and not tools and not variables:
            segments = self._plain.render(conversation, add_generation_prompt)
            if segments is not None:
                return segments
        if schemas and not self._reads_tools:
            conversation, schemas = _with_tools(conversation, schemas), None
        self._check_tool_names(conversation, schemas)
        inputs = {**(variables or {}), "messages": conversation, "tools": schemas}
        own = {**(constants or {}), "add_generation_prompt": add_generation_prompt}
        return self._render_marked(inputs, own)

    def _render_marked(self, inputs: dict[str, Any], own: dict[str, Any]) -> list[Segment]:
        sentinel = choose_sentinel([self._source, *_all_strings(inputs)])
        marked = self._mark(inputs, sentinel)
        text = self._compiled.render({**marked, **own})
        segments = [
            segment if segment.is_control else Segment(segment.text.replace(sentinel, ""), False)
            for segment in self._special_tokens.split(text)
        ]
        segments = [segment for segment in segments if segment.text]
        if marked != inputs:
            plain = self._compiled.render({**inputs, **own})
            if "".join(segment.text for segment in segments) != plain:
                raise TokenizerError(
                    "the chat template looks at a special token's text inside a message",
                    where="chat_template",
                    fix="remove it from the message, or the comparison from the template",
                )
        return segments

    def _mark(self, inputs: dict[str, Any], sentinel: str) -> dict[str, Any]:
        def others(text: str) -> str:
            return self._marker.mark(text, sentinel)

        def own(text: str) -> str:
            return self._own_marker.mark(text, sentinel)

        def message(item: Message) -> Message:
            is_answer = item["role"] == "assistant"
            return {
                key: value
                if key == "role"
                else map_strings(value, own if is_answer and key in _OWN_WORDS else others)
                for key, value in item.items()
            }

        marked = {
            key: map_strings(value, others) for key, value in inputs.items() if key != "messages"
        }
        return {**marked, "messages": [message(item) for item in inputs["messages"]]}

    def _check_tool_names(
        self, conversation: list[Message], schemas: list[dict[str, Any]] | None
    ) -> None:
        lists = [schemas or [], *(item["tools"] for item in conversation if "tools" in item)]
        for tool in (tool for tools in lists for tool in tools if tool["type"] == "function"):
            name = tool["function"]["name"]
            if any(segment.is_control for segment in self._special_tokens.split(name)):
                raise TokenizerError(
                    f"the tool name {name!r} holds a special token",
                    fix="the model could never call it: rename it",
                )


def _all_strings(inputs: Mapping[str, Any]) -> list[str]:
    return [text for key, value in inputs.items() for text in strings_in(value, where=key)]


def _with_tools(conversation: list[Message], schemas: list[dict[str, Any]]) -> list[Message]:
    """Put the tools where GLM-4's template looks for them: on the opening system message."""
    if any("tools" in item for item in conversation):
        raise TokenizerError(
            "tools are given twice, as an argument and inside a message",
            fix="give them in one place",
        )
    first = conversation[0]
    if first["role"] == "system":
        return [{**first, "tools": schemas}, *conversation[1:]]
    return [{"role": "system", "content": "", "tools": schemas}, *conversation]
