"""A tiny vocabulary in the real format: 256 bytes and some merges for English and Chinese."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindformers.models.glm2.glm4_tokens import SPECIAL_TOKENS
from mindformers.tokenizer.bpe import SPLIT_PATTERN

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


# How GPT-2 writes bytes: 0x00-0x20 from U+0100 on, 0x7F-0xA0 and 0xAD after them.
_LETTERS = {byte: chr(byte) for byte in range(256)}
_LETTERS |= {b: chr(0x100 + i) for i, b in enumerate([*range(0x21), *range(0x7F, 0xA1), 0xAD])}


def spell(token: bytes) -> str:
    """Return a token's bytes as ``tokenizer.json`` writes them."""
    return "".join(_LETTERS[byte] for byte in token)


def tiny_tokenizer_json(markers: Sequence[str] = ("<think>",)) -> dict[str, Any]:
    """Return the tiny vocabulary as a ``tokenizer.json``, as GLM-4-0414 comes with.

    Args:
        markers: Added tokens that are no control tokens; their ids follow those of the control tokens.
    """
    tokens = tiny_tokens()
    known = set(tokens)
    merges = [
        f"{spell(t[:cut])} {spell(t[cut:])}"
        for t in tokens
        for cut in range(1, len(t))
        if t[:cut] in known and t[cut:] in known
    ]
    kinds = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": len(tokens) + place, "content": text, **kinds, "special": text in SPECIAL_TOKENS}
        for place, text in enumerate((*SPECIAL_TOKENS, *markers))
    ]
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    split = {
        "type": "Split",
        "pattern": {"Regex": SPLIT_PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {spell(token): rank for rank, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def write_0414_tokenizer(folder: Path, template: str, markers: Sequence[str] = ()) -> Path:
    """Write the tokenizer's files of a GLM-4-0414 directory: no ``tokenizer.model``; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = tiny_tokenizer_json(markers)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    kinds = ("single_word", "lstrip", "rstrip", "normalized", "special")
    settings = {
        "added_tokens_decoder": {
            str(each["id"]): {"content": each["content"], **{kind: each[kind] for kind in kinds}}
            for each in content["added_tokens"]
        },
        "additional_special_tokens": list(SPECIAL_TOKENS),
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "do_lower_case": False,
        "eos_token": "<|endoftext|>",
        "extra_special_tokens": {},
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 128000,
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "remove_space": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
