"""A text cut to a number of tokens, its beginning and its end kept."""

from __future__ import annotations

from typing import Any

_CHARS_PER_TOKEN = 16  # more of a text than this times its tokens is not even looked at


def shortened(text: str, tokenizer: Any, most: int) -> str:
    """Return a text of about ``most`` tokens: what is longer loses its middle, and says how much.

    Args:
        text: Any text.
        tokenizer: Counts.
        most: Tokens of what is kept; the remark about the rest comes on top.
    """
    if len(text.encode("utf-8", "replace")) <= most:  # a token holds a byte or more
        return text
    looked = most * _CHARS_PER_TOKEN
    is_whole = len(text) <= 2 * looked
    head, tail = (text, "") if is_whole else (text[:looked], text[-looked:])
    head_ids = tokenizer.encode_segments([(head, False)])
    tail_ids = head_ids if is_whole else tokenizer.encode_segments([(tail, False)])
    if is_whole and len(head_ids) <= most:
        return text
    first = _text(tokenizer, head_ids[: most * 3 // 4])
    last = _text(tokenizer, tail_ids[-(most // 4) or len(tail_ids) :])
    left_out = len(text) - len(first) - len(last)
    return f"{first}\n[... {left_out} characters left out ...]\n{last}"


def _text(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids)).strip("\ufffd")
