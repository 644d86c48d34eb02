"""A tiny vocabulary in the real format: 256 bytes and some merges for English and Chinese."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

_ENGLISH = "the and a of to in is you that it for on are with as one two three An Hello world model"
_CHINESE = "你好 世界 人工 智能 助手 工具 语言 模型 天气 北京 今天 我们 的 是 在 ， 。"
_OTHERS = ("function", "search", "weather", "name", "ing", "er", "tion", "123", "  ", "\n\n")


def tiny_tokens() -> list[bytes]:
    """Return the token bytes by rank, the same on every call: each merge is two earlier tokens."""
    tokens = [bytes([byte]) for byte in range(256)]
    known = set(tokens)
    words = [form for word in _ENGLISH.split() for form in (word, f" {word}")]
    for word in (*words, *_CHINESE.split(), *_OTHERS):
        raw = word.encode("utf-8")
        for end in range(2, len(raw) + 1):
            if raw[:end] not in known:
                known.add(raw[:end])
                tokens.append(raw[:end])
    return tokens


def write_tiny_vocab(folder: Path) -> Path:
    """Write ``tokenizer.model`` with the tiny vocabulary into ``folder`` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.model"
    lines = [f"{b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tiny_tokens())]
    path.write_text("".join(lines), encoding="ascii")
    return path
