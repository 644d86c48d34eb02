"""GLMProcessor: texts and conversations as padded ids."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import mindformers.logger
from mindformers.errors import TokenizerError
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.models.glm2.glm_processor import GLMProcessor
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from tests.support.vocab import write_tiny_vocab


@pytest.fixture
def tiny(tmp_path):
    return ChatGLM4Tokenizer(write_tiny_vocab(tmp_path / "vocab"))


def test_a_text_becomes_a_batch_of_one_padded_to_the_length(tiny):
    out = GLMProcessor(tiny, max_length=8, return_tensors="np")("hi")
    assert list(out) == ["text"]
    eos = tiny.eos_token_id
    assert out["text"].tolist() == [[eos] * 4 + [*tiny.get_prefix_tokens(), *b"hi"]]


def test_the_defaults_are_128_tokens_in_a_mindspore_tensor(tiny):
    ids = GLMProcessor(tiny)(["hi", "h"])["text"]
    assert type(ids).__name__ == "Tensor"
    assert ids.shape == (2, 128)
    assert str(ids.dtype) == "Int32"


def test_longer_texts_stay_whole(tiny):
    processor = GLMProcessor(tiny, max_length=4, return_tensors="np")
    assert processor("zxjqvk")["text"].shape == (1, 8)
    assert processor([{"role": "user", "content": "zxjqvk"}])["text"].shape == (1, 11)


def test_a_conversation_ends_with_the_assistant_s_token(tiny):
    processor = GLMProcessor(tiny, padding="longest", return_tensors="np")
    messages = [{"role": "user", "content": "hi"}]
    expected = tiny.apply_chat_template(messages, add_generation_prompt=True)
    assert processor(messages)["text"].tolist() == [expected]
    longer = [{"role": "user", "content": "hi there"}]
    both = processor([messages, longer])["text"]
    assert both[0].tolist()[-len(expected) :] == expected
    assert both.dtype == np.int32


def test_lists_can_be_had_and_an_image_is_ignored_with_a_warning(tiny, caplog, monkeypatch):
    monkeypatch.setattr(mindformers.logger, "_seen_once", set())
    monkeypatch.setattr(logging.getLogger("mindformers"), "propagate", True)
    processor = GLMProcessor(tiny, padding=False, return_tensors=None)
    assert processor(["h", "hi"], image_input=object())["text"] == [
        tiny.encode("h"),
        tiny.encode("hi"),
    ]
    assert "image_input has no effect" in caplog.text
    assert processor() == {}


def test_it_is_built_from_a_yaml_section(tmp_path):
    section = {
        "type": "GLMProcessor",
        "return_tensors": "np",
        "tokenizer": {
            "type": "ChatGLM4Tokenizer",
            "vocab_file": str(write_tiny_vocab(tmp_path)),
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
        },
    }
    kind = MindFormerModuleType.PROCESSOR
    processor = MindFormerRegister.get_instance_from_cfg(section, kind)
    assert isinstance(processor, GLMProcessor)
    assert processor("hi")["text"].shape == (1, 128)


def test_a_saved_processor_comes_back_the_same(tiny, tmp_path):
    folder = tmp_path / "saved"
    original = GLMProcessor(tiny, max_length=16, padding="longest", return_tensors="np")
    paths = original.save_pretrained(folder)
    assert sorted(path.rpartition("/")[2] for path in paths) == [
        "processor_config.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    loaded = GLMProcessor.from_pretrained(folder)
    assert (loaded.max_length, loaded.padding, loaded.return_tensors) == (16, "longest", "np")
    assert loaded("hi")["text"].tolist() == original("hi")["text"].tolist()
    assert GLMProcessor.from_pretrained(folder, max_length=9).max_length == 9
    (folder / "processor_config.json").unlink()
    assert GLMProcessor.from_pretrained(folder).max_length == 128


@pytest.mark.parametrize(
    ("response", "shown"),
    [
        (" 你好,世界!ok, yes ", "你好，世界！ok, yes"),
        ("a:中;b?文", "a：中；b？文"),
        ("[[训练时间]]", "2023年"),
        ("1,000 and x?", "1,000 and x?"),
    ],
)
def test_punctuation_beside_chinese_characters_becomes_full_width(response, shown):
    assert GLMProcessor.process_response(response) == shown


def test_without_a_tokenizer_or_input_it_says_so(tiny, tmp_path):
    with pytest.raises(TokenizerError, match="the processor has no tokenizer; pass tokenizer"):
        GLMProcessor()("hi")
    with pytest.raises(TokenizerError, match="no tokenizer to save"):
        GLMProcessor().save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match="the input is empty"):
        GLMProcessor(tiny)([])
