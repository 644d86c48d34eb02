"""Vocabularies in Hugging Face's form."""

from __future__ import annotations

import json

import pytest

from mindformers.errors import TokenizerError
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from tests.support.vocab import spell, tiny_tokenizer_json


def write(folder, changed):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(changed), encoding="utf-8")
    return folder


def test_it_gives_the_same_ids_as_the_rank_file_and_its_own_added_tokens(tiny, tmp_path):
    loaded = ChatGLM4Tokenizer.from_pretrained(write(tmp_path, tiny_tokenizer_json()))
    assert loaded.vocab_hash == tiny.vocab_hash
    text = "Hello 世界, the model is on\n\n you"
    assert loaded.encode(text) == tiny.encode(text)
    assert loaded.convert_tokens_to_ids("<think>") == tiny.vocab_size + 14
    assert loaded.get_prefix_tokens() == tiny.get_prefix_tokens()


def test_it_is_saved_as_a_rank_file(tiny, tmp_path):
    loaded = ChatGLM4Tokenizer.from_pretrained(write(tmp_path / "a", tiny_tokenizer_json()))
    loaded.save_pretrained(tmp_path / "b")
    again = ChatGLM4Tokenizer.from_pretrained(tmp_path / "b")
    assert again.vocab_hash == tiny.vocab_hash
    assert again.special_tokens == loaded.special_tokens


def test_merges_may_be_pairs_and_added_tokens_may_stand_in_the_vocabulary_too(tiny, tmp_path):
    changed = tiny_tokenizer_json()
    changed["model"]["merges"] = [m.split(" ") for m in changed["model"]["merges"]]
    changed["model"]["vocab"]["<think>"] = tiny.vocab_size + 14
    loaded = ChatGLM4Tokenizer.from_pretrained(write(tmp_path, changed))
    assert loaded.vocab_hash == tiny.vocab_hash


def broken(name):
    changed = tiny_tokenizer_json()
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
