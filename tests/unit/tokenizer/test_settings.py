"""Constructor arguments of many origins."""

from __future__ import annotations

import pytest

from mindformers.errors import TokenizerError
from mindformers.tokenizer.options import NO_LIMIT
from mindformers.tokenizer.settings import TokenizerSettings


def test_nothing_given_means_left_padding_and_no_limit():
    settings = TokenizerSettings.parse({"padding_side": None, "model_max_length": None})
    assert settings == TokenizerSettings()
    assert (settings.padding_side, settings.truncation_side) == ("left", "right")
    assert settings.model_max_length == NO_LIMIT == int(1e30)


def test_arguments_of_other_tokenizers_are_accepted_in_silence(fresh_log):
    TokenizerSettings.parse(
        {
            "add_bos_token": True,
            "add_eos_token": True,
            "unk_token": "<unk>",
            "tokenizer_class": "ChatGLM4Tokenizer",
            "auto_map": {"AutoTokenizer": ["x", None]},
            "do_lower_case": False,
            "remove_space": False,
        }
    )
    assert not fresh_log.records


def test_an_unknown_argument_is_warned_about_once(fresh_log):
    for _ in range(2):
        TokenizerSettings.parse({"padding_sid": "right"})
    texts = [record.getMessage() for record in fresh_log.records]
    assert len(texts) == 1
    assert "'padding_sid' has no effect; did you mean 'padding_side'?" in texts[0]


def test_lower_casing_is_not_done_and_said_so(fresh_log):
    TokenizerSettings.parse({"do_lower_case": True})
    assert "do_lower_case=True has no effect" in fresh_log.text


def test_the_padding_token_of_an_older_family_is_replaced(fresh_log):
    assert TokenizerSettings.parse({"pad_token": "<pad>"}).pad_token == "<|endoftext|>"
    assert "GLM-4 has no '<pad>'" in fresh_log.text


def test_tokens_and_templates_may_come_in_hugging_face_s_longer_forms():
    settings = TokenizerSettings.parse(
        {
            "eos_token": {"content": "<eop>", "special": True},
            "chat_template": [
                {"name": "tool_use", "template": "t"},
                {"name": "default", "template": "d"},
            ],
            "additional_special_tokens": ["<x>", {"content": "<y>"}],
            "model_max_length": 1e31,
        }
    )
    assert settings.eos_token == "<eop>"
    assert settings.chat_template == "d"
    assert settings.additional_special_tokens == ("<x>", "<y>")
    assert settings.model_max_length == NO_LIMIT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding_side": "middle"}, "padding_side='middle'; allowed: 'left' or 'right'"),
        ({"truncation_side": 3}, "truncation_side=3"),
        ({"model_max_length": 0}, "model_max_length=0; allowed: a positive number"),
        ({"model_max_length": "8k"}, "model_max_length='8k'"),
        ({"model_max_length": float("nan")}, "model_max_length=nan"),
        ({"eos_token": 3}, "eos_token=3; allowed: the text of a special token"),
        ({"chat_template": 3}, "chat_template is a int"),
        ({"chat_template": {"rag": "x"}}, "no template called 'default', only .'rag'."),
        ({"additional_special_tokens": [""]}, "additional_special_tokens=''"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(arguments, message):
    with pytest.raises(TokenizerError, match=message):
        TokenizerSettings.parse(arguments)
