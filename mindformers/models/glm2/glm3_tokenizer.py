"""The tokenizer of ChatGLM3: its role tokens and its form of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mindformers.errors import TokenizerError
from mindformers.models.glm2.chatglm_tokenizer import (
    EOS,
    FAMILY_TOKENS,
    PREFIX_TOKENS,
    ChatGLMTokenizer,
    Messages,
)
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.tokenizer.batch import BatchEncoding
from mindformers.tokenizer.conversation import (
    ROLES,
    Message,
    check_role,
    normalise_messages,
    normalise_tools,
)
from mindformers.tokenizer.json_text import to_json
from mindformers.tokenizer.special_tokens import Segment

ROLE_TOKENS = tuple(f"<|{role}|>" for role in ROLES)
# What the published examples say before a list of tools.
TOOL_INSTRUCTION = (
    "Answer the following questions as best as you can. You have access to the following tools:"
)


@MindFormerRegister.register(MindFormerModuleType.TOKENIZER)
class ChatGLM3Tokenizer(ChatGLMTokenizer):
    """Tokenizer of ChatGLM3-6B (also 32k and 128k); arguments as in ``ChatGLMTokenizer``.

    A conversation is ``[gMASK]sop`` and per message the role's token, the line with the metadata, and
    the content; line and content are encoded apart.
    """

    family_tokens: ClassVar[tuple[str, ...]] = (*FAMILY_TOKENS, *ROLE_TOKENS)
    end_tokens: ClassVar[tuple[str, ...]] = (EOS, "<|user|>", "<|observation|>")

    def own_form(
        self, messages: Messages, tools: Messages | None, add_generation_prompt: bool
    ) -> list[Segment]:
        """Return a conversation as segments.

        Args:
            messages: The conversation; ``tools`` of a system message follow its content as JSON, as
                they are given.
            tools: Tool schemas; put on the opening system message, which is made when there is none.
            add_generation_prompt: End with the assistant's token.

        Raises:
            TokenizerError: If the conversation is malformed.
        """
        normalise_messages(messages)  # or refused, by the number of the message
        segments = [Segment(token, True) for token in PREFIX_TOKENS]
        for message in _with_tools(messages, tools) if tools else messages:
            for item in normalise_messages([message]):
                content = item["content"]
                if item["role"] == "system" and "tools" in item:
                    content += "\n" + to_json(message["tools"], indent=4)
                segments += _segments(item["role"], item.get("metadata", ""), content)
        if add_generation_prompt:
            segments.append(Segment("<|assistant|>", True))
        return segments

    def build_single_message(self, role: str, metadata: str | None, message: str) -> list[int]:
        """Return one message as ids.

        Args:
            role: system, user, assistant or observation (also tool, function).
            metadata: What stands on the role's line: the tool an assistant calls.
            message: The content.

        Raises:
            TokenizerError: If there is no such role.
        """
        return self.encode_segments(_segments(check_role(role), metadata or "", message))

    def build_chat_input(
        self,
        query: str,
        history: Messages | None = None,
        role: str = "user",
        return_tensors: str | None = "np",
    ) -> BatchEncoding:
        """Return the prompt for the answer to ``query``: ids (1, tokens), mask and positions.

        Args:
            query: What is said now.
            history: Earlier messages.
            role: Who says it: ``user``, or ``observation`` for a tool's result.
            return_tensors: ``"np"``, ``"ms"`` or None for lists.
        """
        return self.build_batch_input([query], [history], role, return_tensors=return_tensors)

    def build_batch_input(
        self,
        queries: str | Sequence[str],
        histories: Any = None,
        roles: str | Sequence[str] = "user",
        padding: bool | str = True,
        return_tensors: str | None = "np",
    ) -> BatchEncoding:
        """Return the prompts for several queries as one batch, filled up on the left.

        Args:
            queries: What is said now, in each conversation.
            histories: The earlier messages of each; None: none.
            roles: Who says it, for all or for each.
            padding: As for a call of the tokenizer.
            return_tensors: ``"np"``, ``"ms"`` or None for lists.

        Raises:
            TokenizerError: If the numbers differ, or a message is malformed.
        """
        queries = [queries] if isinstance(queries, str) else list(queries)
        roles = [roles] * len(queries) if isinstance(roles, str) else list(roles)
        if histories is None:
            histories = [None] * len(queries)
        elif len(histories) != len(queries):
            histories = [histories]  # upstream takes the history of a single query by itself
        if not len(queries) == len(roles) == len(histories):
            raise TokenizerError(
                f"{len(queries)} queries with {len(histories)} histories and {len(roles)} roles",
                where="build_batch_input",
                allowed="one of each per query",
            )
        prompts = [
            self.own_form([*(history or ()), {"role": role, "content": query}], None, True)
            for query, history, role in zip(queries, histories, roles, strict=True)
        ]
        return self.as_batch(prompts, padding, return_tensors)


def _segments(role: str, metadata: str, content: str) -> list[Segment]:
    return [
        Segment(f"<|{role}|>", True),
        Segment(f"{metadata}\n", False),
        Segment(content, False),
    ]


def _with_tools(messages: Messages, tools: Messages) -> list[Message]:
    """Put tools on the opening system message, as the bare schemas the model knows."""
    if any(message.get("tools") for message in messages):
        raise TokenizerError(
            "tools are given twice, as an argument and inside a message",
            fix="give them in one place",
        )
    schemas = [
        tool["function"] if tool["type"] == "function" else tool for tool in normalise_tools(tools)
    ]
    first = messages[0]
    if first.get("role") == "system":
        return [{**first, "tools": schemas}, *map(dict, messages[1:])]
    opening = {"role": "system", "content": TOOL_INSTRUCTION, "tools": schemas}
    return [opening, *map(dict, messages)]
