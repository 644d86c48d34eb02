"""Log probabilities in the two forms OpenAI has for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mindformers.generation.request import TokenLogprob


def chat_entries(found: Iterable[TokenLogprob], tokenizer: Any) -> list[dict[str, Any]]:
    """Return one object for each token, as ``choices[].logprobs.content`` holds them."""
    return [
        {
            **_entry(each.token, each.logprob, tokenizer),
            "top_logprobs": [_entry(token, value, tokenizer) for token, value in each.top],
        }
        for each in found
    ]


def completion_entries(
    found: Iterable[TokenLogprob], tokenizer: Any, offset: int
) -> dict[str, Any]:
    """Return the lists of the completions endpoint.

    Args:
        found: The tokens' log probabilities.
        tokenizer: Gives their texts.
        offset: Characters of the answer before the first of them.
    """
    tokens, values, tops, offsets = [], [], [], []
    for each in found:
        text = token_text(each.token, tokenizer)
        tokens.append(text)
        values.append(each.logprob)
        tops.append({token_text(token, tokenizer): value for token, value in each.top})
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def token_text(token: int, tokenizer: Any) -> str:
    """Return a token's text; part of a character shows as U+FFFD."""
    return str(
        tokenizer.decode(
            [token],
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            errors="placeholder",
        )
    )


def _entry(token: int, value: float, tokenizer: Any) -> dict[str, Any]:
    text = token_text(token, tokenizer)
    raw = tokenizer.convert_ids_to_tokens(token) if "\ufffd" in text else text
    content = raw if isinstance(raw, bytes) else text.encode("utf-8")
    return {"token": text, "logprob": value, "bytes": list(content)}
