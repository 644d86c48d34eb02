"""The tokenizer of ChatGLM2: its numbered rounds of question and answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mindformers.errors import TokenizerError
from mindformers.models.glm2.chatglm_tokenizer import (
    FAMILY_TOKENS,
    PREFIX_TOKENS,
    ChatGLMTokenizer,
    Messages,
)
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.tokenizer.conversation import normalise_messages
from mindformers.tokenizer.special_tokens import Segment


@MindFormerRegister.register(MindFormerModuleType.TOKENIZER)
class ChatGLM2Tokenizer(ChatGLMTokenizer):
    """Tokenizer of ChatGLM2-6B (also 32k); arguments as in ``ChatGLMTokenizer``.

    A conversation is ``[gMASK]sop`` and one text of numbered rounds; the model has no role tokens, so
    there are user and assistant only. Decoding leaves control tokens out unless asked for them.
    """

    family_tokens: ClassVar[tuple[str, ...]] = FAMILY_TOKENS
    skips_special_tokens: ClassVar[bool] = True

    def build_prompt(self, query: str, history: Sequence[tuple[str, str]] | None = None) -> str:
        """Return the text that asks ``query``.

        Args:
            query: What is said now.
            history: Earlier (question, answer) pairs.
        """
        rounds = [f"{_asked(i, old)}{answer}\n\n" for i, (old, answer) in enumerate(history or ())]
        return "".join([*rounds, _asked(len(rounds), query)])

    def own_form(
        self, messages: Messages, tools: Messages | None, add_generation_prompt: bool
    ) -> list[Segment]:
        """Return a conversation as segments: the prompt as one text, a last answer as another.

        Args:
            messages: User and assistant in turns, the user first.
            tools: Not known to this model.
            add_generation_prompt: The last message is the user's; its prompt ends with ``答：``.

        Raises:
            TokenizerError: If the conversation is malformed, or holds what the form has no place for.
        """
        conversation = normalise_messages(messages)
        if tools or any("tools" in item or item.get("metadata") for item in conversation):
            raise TokenizerError(
                "ChatGLM2 knows no tools", where="tools", fix="take a ChatGLM3 or GLM-4 model"
            )
        for index, item in enumerate(conversation):
            role = "assistant" if index % 2 else "user"
            if item["role"] != role:
                raise TokenizerError(
                    f"a message of the role {item['role']!r}",
                    where=f"messages[{index}]",
                    allowed=f"{role!r}: ChatGLM2 knows a user and an assistant in turns only",
                    fix="put an instruction before the first question",
                )
        texts = [item["content"] for item in conversation]
        answer = texts.pop() if len(texts) % 2 == 0 else None
        if answer is not None and add_generation_prompt:
            raise TokenizerError(
                "the last message is an answer already",
                where=f"messages[{len(texts)}]",
                fix="end with the user's message, or leave add_generation_prompt out",
            )
        history = list(zip(texts[:-1:2], texts[1::2], strict=True))
        segments = [Segment(token, True) for token in PREFIX_TOKENS]
        segments.append(Segment(self.build_prompt(texts[-1], history), False))
        if answer is not None:
            segments.append(Segment(answer, False))
        return segments


def _asked(index: int, query: str) -> str:
    return f"[Round {index + 1}]\n\n问：{query}\n\n答："
