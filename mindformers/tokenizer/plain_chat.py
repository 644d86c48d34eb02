"""GLM-4's own chat template for conversations without tools, written out: no Jinja, equal segments.

Rendering through the template costs more than tokenizing, and most conversations only join role
tokens and texts. Whatever is beyond that is left to the template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mindformers.tokenizer.conversation import ROLES
from mindformers.tokenizer.special_tokens import Segment, SpecialTokens

_PREFIX = ("[gMASK]", "<sop>")
_FIELDS = frozenset(("role", "content", "metadata"))
# What is longer goes through the template, so that the bounds of a rendering hold.
_MAX_CHARS = 2**20


class PlainChat:
    """Joins conversations as GLM-4's template does.

    Texts of others are segments of their own here, so nothing in them can become a control token.

    Args:
        special_tokens: The tokens of the vocabulary.
    """

    def __init__(self, special_tokens: SpecialTokens) -> None:
        self._prefix = [Segment(token, True) for token in _PREFIX]
        self._roles = {role: Segment(f"<|{role}|>", True) for role in ROLES}
        self._is_usable = self._yields_its_own_tokens(special_tokens)

    def _yields_its_own_tokens(self, special_tokens: SpecialTokens) -> bool:
        """Tell whether the template's own text falls into exactly these control tokens.

        A table of another family may lack one, or have one that spans two, or tokens with blanks or
        of one character, or markers that are control in an assistant's words only.
        """
        for token in special_tokens.by_text.values():
            is_word = token.content.split() == [token.content] and len(token.content) > 1
            if not (token.special and is_word):
                return False
        return all(
            list(special_tokens.split("".join(s.text for s in (*self._prefix, role, role))))
            == [*self._prefix, role, role]
            for role in self._roles.values()
        )

    def render(
        self, conversation: Sequence[Mapping[str, Any]], add_generation_prompt: bool
    ) -> list[Segment] | None:
        """Return the segments of a conversation, or None where the template has to be asked.

        Args:
            conversation: What ``normalise_messages`` returned.
            add_generation_prompt: End with the assistant's token.
        """
        if not self._is_usable:
            return None
        segments = list(self._prefix)
        num_chars = 0
        for message in conversation:
            if not _FIELDS.issuperset(message):
                return None
            content = message["content"]
            if content:
                text = f"{message.get('metadata', '')}\n{content}"
                num_chars += len(text)
                segments += (self._roles[message["role"]], Segment(text, False))
        if add_generation_prompt:
            segments.append(self._roles["assistant"])
        return segments if num_chars <= _MAX_CHARS else None
