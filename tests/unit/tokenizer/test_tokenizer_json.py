"""Vocabularies in Hugging Face's form."""

from __future__ import annotations

import json

import pytest

from mindformers.errors import TokenizerError
from mindformers.models.glm2.glm4_tokenizer import SPECIAL_TOKENS, ChatGLM4Tokenizer
from mindformers.tokenizer.bpe import SPLIT_PATTERN
from tests.support.vocab import tiny_tokens

# How GPT-2 writes bytes: 0x00-0x20 from U+0100 on, 0x7F-0xA0 and 0xAD after them.
LETTERS = {byte: chr(byte) for byte in range(256)}
LETTERS |= {b: chr(0x100 + i) for i, b in enumerate([*range(0x21), *range(0x7F, 0xA1), 0xAD])}


def spell(token):
    return "".join(LETTERS[byte] for byte in token)


def content():
    tokens = tiny_tokens()
    known = set(tokens)
    merges = [
        f"{spell(t[:cut])} {spell(t[cut:])}"
        for t in tokens
        for cut in range(1, len(t))
        if t[:cut] in known and t[cut:] in known
    ]
    added = [
        {"id": len(tokens) + i, "content": text, "special": True}
        for i, text in enumerate(SPECIAL_TOKENS)
    ]
    added.append({"id": len(tokens) + 30, "content": "<think>", "special": False})
    split = {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated"}
    return {
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel"}]},
        "model": {
            "type": "BPE",
            "vocab": {spell(token): rank for rank, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def write(folder, changed):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(changed), encoding="utf-8")
    return folder


def test_it_gives_the_same_ids_as_the_rank_file_and_its_own_added_tokens(tiny, tmp_path):
    loaded = ChatGLM4Tokenizer.from_pretrained(write(tmp_path, content()))
    assert loaded.vocab_hash == tiny.vocab_hash
    text = "Hello 世界, the model is on\n\n you"
    assert loaded.encode(text) == tiny.encode(text)
    assert loaded.convert_tokens_to_ids("<think>") == tiny.vocab_size + 30
    assert loaded.get_prefix_tokens() == tiny.get_prefix_tokens()


def test_it_is_saved_as_a_rank_file(tiny, tmp_path):
    loaded = ChatGLM4Tokenizer.from_pretrained(write(tmp_path / "a", content()))
    loaded.save_pretrained(tmp_path / "b")
    again = ChatGLM4Tokenizer.from_pretrained(tmp_path / "b")
    assert again.vocab_hash == tiny.vocab_hash
    assert again.special_tokens == loaded.special_tokens


def test_merges_may_be_pairs_and_added_tokens_may_stand_in_the_vocabulary_too(tiny, tmp_path):
    changed = content()
    changed["model"]["merges"] = [m.split(" ") for m in changed["model"]["merges"]]
    changed["model"]["vocab"]["<think>"] = tiny.vocab_size + 30
    loaded = ChatGLM4Tokenizer.from_pretrained(write(tmp_path, changed))
    assert loaded.vocab_hash == tiny.vocab_hash


def broken(name):
    changed = content()
    model = changed["model"]
    if name == "model":
        model["type"] = "Unigram"
    elif name == "pattern":
        changed["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+"
    elif name == "normalizer":
        changed["normalizer"] = {"type": "Lowercase"}
    elif name == "letters":
        model["vocab"]["中"] = 9999
    elif name == "order":
        model["merges"].reverse()
    elif name == "merge":
        model["merges"].append("q z")
    elif name == "gap":
        model["vocab"][spell(b"zz")] = 9999
    return changed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model", "no byte-pair encoding"),
        ("pattern", "splits or rewrites texts in another way"),
        ("normalizer", "splits or rewrites texts in another way"),
        ("letters", "not byte level"),
        ("order", "comes after one of a higher rank"),
        ("merge", "not byte level"),
        ("gap", "rank 9999 in a file of"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(name, message, tmp_path):
    with pytest.raises(TokenizerError, match=message):
        ChatGLM4Tokenizer.from_pretrained(write(tmp_path, broken(name)))
