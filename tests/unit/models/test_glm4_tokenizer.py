"""ChatGLM4Tokenizer: GLM-4's special tokens, prefix and messages."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from mindformers.errors import TokenizerError
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from tests.support.shared import shared_file
from tests.support.vocab import write_tiny_vocab

SPECIALS = {
    "<|endoftext|>": 151329,
    "[MASK]": 151330,
    "[gMASK]": 151331,
    "[sMASK]": 151332,
    "<sop>": 151333,
    "<eop>": 151334,
    "<|system|>": 151335,
    "<|user|>": 151336,
    "<|assistant|>": 151337,
    "<|observation|>": 151338,
    "<|begin_of_image|>": 151339,
    "<|end_of_image|>": 151340,
    "<|begin_of_video|>": 151341,
    "<|end_of_video|>": 151342,
}


@pytest.fixture
def tiny(tmp_path):
    return ChatGLM4Tokenizer(write_tiny_vocab(tmp_path))


@pytest.fixture(scope="module")
def published():
    return ChatGLM4Tokenizer(shared_file("data/glm4_tokenizer.model"))


def test_the_published_vocabulary_has_the_published_special_ids(published):
    assert published.special_tokens == SPECIALS
    assert (published.vocab_size, len(published)) == (151329, 151343)
    assert published.get_prefix_tokens() == [151331, 151333]
    assert published.eos_token_id == published.pad_token_id == 151329


def test_both_ways_to_a_special_id_agree_with_any_vocabulary(tiny):
    for offset, token in enumerate(SPECIALS):
        assert tiny.convert_tokens_to_ids(token) == tiny.vocab_size + offset
        assert tiny.convert_special_tokens_to_ids(token) == tiny.vocab_size + offset
    with pytest.raises(TokenizerError, match=r"'<\|users\|>' is no special.*mean '<\|user\|>'"):
        tiny.convert_special_tokens_to_ids("<|users|>")


def test_a_pair_ends_with_the_end_token_and_holds_no_none(tiny):
    prefix = tiny.get_prefix_tokens()
    assert tiny.build_inputs_with_special_tokens([5]) == [*prefix, 5]
    assert tiny.build_inputs_with_special_tokens([5], [7, 8]) == [*prefix, 5, 7, 8, tiny.vocab_size]


def test_a_single_message_is_the_role_its_line_and_its_content(tiny):
    ids = tiny.build_single_message("assistant", "tool", "\nhi")
    assert ids[0] == tiny.convert_tokens_to_ids("<|assistant|>")
    # line and content are one string: two newlines are one token
    assert ids[1:] == tiny.encode("tool\n\nhi", add_special_tokens=False)
    text = tiny.build_single_message("user", "", "hi", tokenize=False)
    assert text == "<|user|>\nhi"
    assert tiny.build_single_message("tool", None, "r", tokenize=False) == "<|observation|>\nr"
    with pytest.raises(TokenizerError, match="unknown role 'usr'.*did you mean 'user'"):
        tiny.build_single_message("usr", "", "hi")


def test_a_message_equals_the_chat_template_s(tiny):
    message = {"role": "assistant", "metadata": "f", "content": '{"a": "<|user|>"}'}
    single = tiny.build_single_message("assistant", "f", message["content"])
    assert tiny.apply_chat_template([message]) == [*tiny.get_prefix_tokens(), *single]


def test_text_of_every_special_token_stays_text_by_default(tiny):
    for token in SPECIALS:
        assert max(tiny.encode(f"a{token}b", add_special_tokens=False)) < tiny.vocab_size
    tiny.encode_special_tokens = True
    for token, offset in zip(SPECIALS, range(14), strict=True):
        assert tiny.encode(token, add_special_tokens=False) == [tiny.vocab_size + offset]


def test_upstream_s_arguments_build_it_through_the_registry(tmp_path):
    settings = {
        "type": "ChatGLM4Tokenizer",
        "vocab_file": str(write_tiny_vocab(tmp_path)),
        "bos_token": "<sop>",
        "eos_token": "<eop>",
        "end_token": "</s>",
        "mask_token": "[MASK]",
        "gmask_token": "[gMASK]",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": True,
    }
    tokenizer = MindFormerRegister.get_instance_from_cfg(settings, MindFormerModuleType.TOKENIZER)
    assert isinstance(tokenizer, ChatGLM4Tokenizer)
    assert tokenizer.eos_token_id == tokenizer.special_tokens["<eop>"]
    assert tokenizer.pad_token_id == tokenizer.special_tokens["<|endoftext|>"]


def test_an_end_token_that_does_not_exist_is_refused(tmp_path):
    path = write_tiny_vocab(tmp_path)
    with pytest.raises(
        TokenizerError, match="eos_token='<|endoftxt|>' is no special".replace("|", r"\|")
    ):
        ChatGLM4Tokenizer(path, eos_token="<|endoftxt|>")


def test_a_tokenizer_can_be_copied_and_pickled(tiny):
    for other in (copy.deepcopy(tiny), pickle.loads(pickle.dumps(tiny))):
        assert other.encode("Hello <|user|> 世界") == tiny.encode("Hello <|user|> 世界")
        assert other.special_tokens == tiny.special_tokens


def test_tokenizing_loads_no_mindspore(tmp_path):
    path = write_tiny_vocab(tmp_path)
    code = (
        "import sys; from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer as T; "
        f"t = T({str(path)!r}); t(['a', 'b'], return_tensors='np'); "
        "assert not {'mindspore', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_mindspore_tensors_are_int32_with_a_batch_axis(tiny):
    ids = tiny(["hi", "h"], padding=True, return_tensors="ms").input_ids
    assert type(ids).__name__ == "Tensor"
    assert ids.shape == (2, 4)
    assert str(ids.dtype) == "Int32"
    assert tiny.decode(ids, skip_special_tokens=True) == ["hi", "h"]
