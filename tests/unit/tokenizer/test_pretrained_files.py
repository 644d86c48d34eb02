"""Saving a tokenizer and reading it back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindformers.errors import TokenizerError
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.tokenizer.chat import default_template


def edit_config(folder, **changes):
    path = folder / "tokenizer_config.json"
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def saved(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_tokenizer_comes_back_the_same(tiny_file, tmp_path):
    original = ChatGLM4Tokenizer(
        tiny_file,
        eos_token="<eop>",
        padding_side="right",
        truncation_side="left",
        model_max_length=77,
        chat_template="{{ messages[0].content }}",
        additional_special_tokens=["<extra>"],
        encode_special_tokens=True,
    )
    paths = original.save_pretrained(tmp_path / "模型 dir")
    assert [p.rpartition("/")[2] for p in paths] == ["tokenizer.model", "tokenizer_config.json"]
    loaded = ChatGLM4Tokenizer.from_pretrained(tmp_path / "模型 dir")
    names = (
        *("special_tokens", "eos_token_id", "pad_token_id", "padding_side", "truncation_side"),
        *("model_max_length", "chat_template", "encode_special_tokens", "vocab_hash"),
    )
    for name in names:
        assert getattr(loaded, name) == getattr(original, name), name
    assert loaded.encode("x<extra>")[-1] == len(original) - 1


def test_the_configuration_has_hugging_face_s_keys(saved, tiny):
    content = json.loads((saved / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert content["tokenizer_class"] == "ChatGLM4Tokenizer"
    assert content["added_tokens_decoder"][str(tiny.vocab_size)]["content"] == "<|endoftext|>"
    assert content["chat_template"] == default_template()
    assert content["padding_side"] == "left"
    assert "model_max_length" not in content
    assert not [p for p in saved.iterdir() if p.name.startswith(".")]


def test_settings_of_the_call_override_the_folder_s(saved):
    assert ChatGLM4Tokenizer.from_pretrained(saved, padding_side="right").padding_side == "right"


def test_a_rank_file_may_be_named_instead_of_its_folder(saved):
    edit_config(saved, padding_side="right")
    loaded = ChatGLM4Tokenizer.from_pretrained(saved / "tokenizer.model")
    assert loaded.padding_side == "right"


def test_a_folder_with_only_the_rank_file_is_enough(tiny_file):
    assert ChatGLM4Tokenizer.from_pretrained(tiny_file.parent).chat_template is None


def test_tokens_of_a_newer_model_are_read_from_the_folder(saved, tiny):
    decoder = json.loads((saved / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    think = len(tiny) + 7
    decoder[str(think)] = {"content": "<think>", "special": False}
    edit_config(saved, added_tokens_decoder=decoder)
    loaded = ChatGLM4Tokenizer.from_pretrained(saved)
    assert loaded.convert_tokens_to_ids("<think>") == think
    assert len(loaded) == think + 1
    assert loaded.decode([think, 104], skip_special_tokens=True) == "<think>h"
    assert max(loaded.encode("<think>", add_special_tokens=False)) < loaded.vocab_size


def test_a_template_file_goes_before_the_configuration_s_and_is_kept_up(saved):
    (saved / "chat_template.jinja").write_text("file", encoding="utf-8")
    loaded = ChatGLM4Tokenizer.from_pretrained(saved)
    assert loaded.chat_template == "file"
    loaded.chat_template = "new"
    loaded.save_pretrained(saved)
    assert ChatGLM4Tokenizer.from_pretrained(saved).chat_template == "new"


def test_the_vocabulary_can_be_saved_with_a_prefix_or_under_another_name(tiny, tmp_path):
    assert tiny.save_vocabulary(tmp_path, "glm") == (str(tmp_path / "glm-tokenizer.model"),)
    (path,) = tiny.save_vocabulary(tmp_path / "sub" / "other.model")
    assert path == str(tmp_path / "sub" / "other.model")
    assert ChatGLM4Tokenizer(path).vocab_hash == tiny.vocab_hash


def test_the_published_file_is_written_back_byte_for_byte(published, tmp_path):
    (path,) = published.save_vocabulary(tmp_path)
    assert Path(path).read_bytes() == Path(published.vocab_file).read_bytes()


def test_a_folder_without_a_vocabulary_is_refused_with_what_it_holds(tmp_path):
    with pytest.raises(TokenizerError, match="no such folder or file"):
        ChatGLM4Tokenizer.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(
        TokenizerError, match=r"no tokenizer\.model and no tokenizer\.json, only nothing"
    ):
        ChatGLM4Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").touch()
    with pytest.raises(TokenizerError, match=r"only config\.json"):
        ChatGLM4Tokenizer.from_pretrained(tmp_path)


def test_a_configuration_of_another_vocabulary_is_refused(saved):
    edit_config(saved, added_tokens_decoder={"151329": {"content": "<|endoftext|>"}})
    with pytest.raises(TokenizerError, match="must come from the same model"):
        ChatGLM4Tokenizer.from_pretrained(saved)


def test_a_broken_configuration_is_refused_with_its_line(saved):
    (saved / "tokenizer_config.json").write_text('{\n"a": }', encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json:2: is not JSON"):
        ChatGLM4Tokenizer.from_pretrained(saved)


def test_another_class_in_the_folder_is_warned_about(saved, fresh_log):
    edit_config(saved, tokenizer_class="ChatGLMTokenizer")
    ChatGLM4Tokenizer.from_pretrained(saved)
    assert "names the class ChatGLMTokenizer" in fresh_log.text


def test_saving_into_a_file_and_a_misspelt_argument_are_refused(tiny, tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(TokenizerError, match="is a file, not a folder"):
        tiny.save_pretrained(tmp_path / "x")
    with pytest.raises(TokenizerError, match="unknown argument 'save_nam'"):
        tiny.save_pretrained(tmp_path, save_nam="x")
    tiny.save_pretrained(tmp_path / "y", save_name="mindspore_model", save_json=True)
