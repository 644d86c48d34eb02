"""A tokenizer over the tiny vocabulary for each dialect of tool calls."""

from __future__ import annotations

from pathlib import Path

from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer

MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>",
           "<arg_value>", "</arg_value>", "<tool_response>", "</tool_response>")  # fmt: skip
_FOLDER = Path(__file__).parents[1] / "golden" / "chat"


def dialect_tokenizer(vocab: Path, dialect: str) -> ChatGLM4Tokenizer:
    """Return the tokenizer of a model that writes calls in ``dialect``.

    Args:
        vocab: The file of the vocabulary.
        dialect: One of ``tool_calls.DIALECTS``.
    """
    if dialect == "glm4":
        return ChatGLM4Tokenizer(vocab)
    free = len(ChatGLM4Tokenizer(vocab))
    markers = MARKERS if dialect == "glm45" else ()
    added = {free + i: {"content": text, "special": False} for i, text in enumerate(markers)}
    template = (_FOLDER / f"{dialect}.jinja").read_text(encoding="utf-8").rstrip("\n")
    return ChatGLM4Tokenizer(vocab, added_tokens_decoder=added, chat_template=template)
