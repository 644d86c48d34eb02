"""The tokenizer as callers use it: texts, pairs, batches, conversations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindformers.errors import TokenizerError
from mindformers.models.glm2.glm4_tokenizer import SPECIAL_TOKENS
from tests.support.shared import shared_file

SHARED_FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
USER = [{"role": "user", "content": "你好"}]


def n(tokenizer):
    return tokenizer.vocab_size


@given(text=st.text() | st.sampled_from(SPECIAL_TOKENS))
@SHARED_FIXTURE
def test_decode_of_encode_is_the_text(tiny, text):
    assert tiny.decode(tiny.encode(text, add_special_tokens=False)) == text
    assert tiny.decode(tiny.encode(text), skip_special_tokens=True) == text
    assert tiny.convert_tokens_to_string(tiny.tokenize(text)) == text


def test_a_text_has_the_prefix_a_mask_and_positions(tiny):
    ids = [n(tiny) + 2, n(tiny) + 4, *b"hi"]
    assert tiny("hi") == {
        "input_ids": ids,
        "attention_mask": [1, 1, 1, 1],
        "position_ids": [0, 1, 2, 3],
    }
    assert tiny("hi", add_special_tokens=False)["input_ids"] == list(b"hi")
    assert tiny.encode("hi") == ids
    assert list(tiny("hi", return_attention_mask=False)) == ["input_ids", "position_ids"]


def test_the_published_ids_of_a_text_with_its_prefix(published):
    assert published.encode("晚上睡不着应该怎么办") == [
        151331, 151333, 101160, 120410, 99379, 103298,
    ]  # fmt: skip
    assert published("An increasing sequence: one, two, three.")["input_ids"] == [
        151331, 151333, 2082, 7703, 8499, 25, 825, 11, 1378, 11, 2326, 13,
    ]  # fmt: skip


def test_a_batch_pads_on_the_left_and_a_call_may_pad_on_the_right(tiny):
    eos = n(tiny)
    left = tiny(["hi", "h"], padding=True)
    assert left["input_ids"][1] == [eos, eos + 2, eos + 4, 104]
    assert left["attention_mask"][1] == [0, 1, 1, 1]
    assert left["position_ids"][1] == [0, 0, 1, 2]
    right = tiny(["hi", "h"], padding=True, padding_side="right", return_tensors="np")
    assert right.input_ids.tolist()[1] == [eos + 2, eos + 4, 104, eos]
    assert right.position_ids.dtype == np.int32


def test_pairs_come_as_two_arguments_two_lists_or_tuples(tiny):
    pair = [*tiny.get_prefix_tokens(), *b"ab", tiny.eos_token_id]
    assert tiny("a", "b")["input_ids"] == pair
    assert tiny(["a", "x"], ["b", "y"])["input_ids"][0] == pair
    assert tiny([("a", "b"), "x"])["input_ids"][0] == pair
    assert tiny.batch_encode_plus([("a", "b")])["input_ids"] == [pair]
    assert tiny("a", "b", add_special_tokens=False)["input_ids"] == list(b"ab")
    with pytest.raises(TokenizerError, match="2 texts with 1 second texts"):
        tiny(["a", "b"], ["c"])


def test_truncation_keeps_the_prefix_on_both_sides(tiny):
    prefix = tiny.get_prefix_tokens()
    assert tiny.encode("qzxjvk", truncation=True, max_length=4) == [*prefix, *b"qz"]
    tiny.truncation_side = "left"
    assert tiny.encode("qzxjvk", truncation=True, max_length=4) == [*prefix, *b"vk"]
    assert tiny.encode("qzxjvk", truncation=True, max_length=2) == prefix
    with pytest.raises(TokenizerError, match="max_length=1 has no room for the 2 special tokens"):
        tiny.encode("qzxjvk", truncation=True, max_length=1)


def test_the_model_s_length_is_the_default_limit(tiny_file):
    from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer

    tokenizer = ChatGLM4Tokenizer(tiny_file, model_max_length=5)
    assert len(tokenizer.encode("qzxjvk", truncation=True)) == 5
    assert len(tokenizer.encode("q", padding="max_length")) == 5
    assert len(tokenizer.encode("qzxjvk")) == 8


def test_special_text_is_text_unless_the_tokenizer_is_told_to_read_it(tiny):
    text = "a<|user|>b"
    ids = tiny.encode(text, add_special_tokens=False)
    assert max(ids) < n(tiny)
    assert tiny.decode(ids) == text
    tiny.encode_special_tokens = True
    assert tiny.encode(text, add_special_tokens=False) == [97, n(tiny) + 7, 98]
    assert tiny.tokenize(text) == [b"a", "<|user|>", b"b"]


def test_ids_and_tokens_may_be_given_in_place_of_a_text(tiny):
    prefix = tiny.get_prefix_tokens()
    assert tiny.encode([104, 105]) == [*prefix, 104, 105]
    assert tiny.encode([b"h", "<|user|>"]) == [*prefix, 104, n(tiny) + 7]
    with pytest.raises(TokenizerError, match="cannot tokenize a NoneType; allowed: a string"):
        tiny(None)


def test_tokens_and_ids_convert_both_ways(tiny):
    assert tiny.convert_tokens_to_ids("<sop>") == n(tiny) + 4
    assert tiny.convert_tokens_to_ids([b"h", "<sop>", "h"]) == [104, n(tiny) + 4, 104]
    assert tiny.convert_ids_to_tokens(104) == b"h"
    assert tiny.convert_ids_to_tokens(np.int64(104)) == b"h"
    assert tiny.convert_ids_to_tokens([104, n(tiny)]) == [b"h", "<|endoftext|>"]
    assert tiny.convert_ids_to_tokens([104, n(tiny)], skip_special_tokens=True) == [b"h"]
    with pytest.raises(
        TokenizerError, match=r"is no token of this vocabulary; did you mean '<\|user\|>'"
    ):
        tiny.convert_tokens_to_ids("<|usr|>")
    with pytest.raises(TokenizerError, match="no token has the id 99999"):
        tiny.convert_ids_to_tokens([99999])


def test_tokens_become_a_string_without_loss(tiny):
    euro = "€".encode()
    tokens = [b"a", "<sop>", euro[:1], euro[1:], b"b", 104]
    assert tiny.convert_tokens_to_string(tokens) == "a<sop>€bh"


def test_the_vocabulary_lists_every_token(tiny):
    vocab = tiny.get_vocab()
    assert len(vocab) == len(tiny) == n(tiny) + 14
    assert vocab[b"h"] == 104
    assert vocab["<|end_of_video|>"] == len(tiny) - 1
    assert tiny.get_added_vocab() == tiny.special_tokens
    assert tiny.num_special_tokens_to_add() == 2
    assert tiny.num_special_tokens_to_add(pair=True) == 3
    assert tiny.special_tokens_map == {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}


def test_decode_takes_arrays_and_nests(tiny):
    ids = tiny.encode("An one")
    assert tiny.decode(np.array(ids)) == "[gMASK] <sop> An one"
    assert tiny.decode([ids, ids]) == ["[gMASK] <sop> An one"] * 2
    assert tiny.batch_decode(np.array([ids]), skip_special_tokens=True) == ["An one"]
    assert tiny.decode(104) == "h"
    assert tiny.decode([]) == ""
    assert tiny.decode(list(b"a ."), clean_up_tokenization_spaces=True) == "a."
    with pytest.raises(TokenizerError, match="token ids cannot be a str"):
        tiny.decode("abc")


def test_a_special_tokens_mask_and_lengths_can_be_had(tiny):
    encoding = tiny("hi", return_special_tokens_mask=True, return_length=True)
    assert encoding.special_tokens_mask == [1, 1, 0, 0]
    assert encoding.length == 4
    assert tiny.get_special_tokens_mask([104], [105]) == [1, 1, 0, 0, 1]


def test_pad_completes_what_a_call_returned(tiny):
    rows = [{"input_ids": tiny.encode("hi")}, {"input_ids": [104]}]
    padded = tiny.pad(rows, return_tensors="np", padding_side="right")
    assert padded.input_ids.tolist()[1] == [104, n(tiny), n(tiny), n(tiny)]
    assert padded.attention_mask.tolist()[1] == [1, 0, 0, 0]
    assert tiny.pad({"input_ids": [104]}, padding="max_length", max_length=2) == {
        "input_ids": [n(tiny), 104],
        "attention_mask": [0, 1],
    }
    with pytest.raises(TokenizerError, match="no input_ids"):
        tiny.pad([{"labels": [1]}])
    with pytest.raises(TokenizerError, match="an encoded text has no position_ids, others have"):
        tiny.pad([tiny("hi"), {"input_ids": [104]}])


def test_a_conversation_becomes_the_published_ids(published):
    ids = published.apply_chat_template(USER, add_generation_prompt=True)
    assert ids == [151331, 151333, 151336, 198, 109377, 151337]


def test_content_that_begins_with_a_newline_is_encoded_with_the_newline_before_it(tiny):
    ids = tiny.apply_chat_template([{"role": "user", "content": "\nxyz"}])
    assert tiny.convert_ids_to_tokens(ids)[3:] == [b"\n\n", b"x", b"y", b"z"]


def test_a_conversation_as_text_as_arrays_as_a_dict_and_in_batches(tiny):
    text = "[gMASK]<sop><|user|>\n你好<|assistant|>"
    options = {"add_generation_prompt": True}
    assert tiny.apply_chat_template(USER, tokenize=False, **options) == text
    longer = [{"role": "user", "content": "你好 the"}]
    both = tiny.apply_chat_template(
        [USER, longer], padding=True, return_tensors="np", return_dict=True, **options
    )
    assert both.input_ids[0].tolist() == [n(tiny), *tiny.apply_chat_template(USER, **options)]
    assert both.attention_mask[0].tolist() == [0, *[1] * (both.input_ids.shape[1] - 1)]
    assert tiny.apply_chat_template([USER], tokenize=False, **options) == [text]
    assert tiny.apply_chat_template(USER, return_tensors="np").shape == (1, 5)


def test_a_conversation_is_cut_only_on_demand_and_never_its_prefix(tiny):
    whole = tiny.apply_chat_template(USER)
    assert tiny.apply_chat_template(USER, max_length=4) == whole
    assert tiny.apply_chat_template(USER, max_length=4, truncation=True) == whole[:4]
    tiny.truncation_side = "left"
    cut = tiny.apply_chat_template(USER, max_length=4, truncation=True)
    assert cut == whole[:2] + whole[-2:]


def test_a_template_s_own_variables_pass_and_a_misspelt_option_does_not(tiny):
    source = "{{ 'thinking' if enable_thinking else 'plain' }}{{ eos_token }}"
    segments = tiny.render(USER, chat_template=source, enable_thinking=True)
    assert segments == [("thinking", False), ("<|endoftext|>", True)]
    with pytest.raises(TokenizerError, match=r"'paddding'.*did you mean 'padding'"):
        tiny.apply_chat_template(USER, paddding=True)


def test_segments_are_encoded_run_by_run(tiny):
    from mindformers.tokenizer.chat import Segment

    segments = [Segment("<|user|>", True), Segment("\n", False), Segment("\nx<|user|>", False)]
    ids = tiny.encode_segments(segments)
    assert ids[:3] == [n(tiny) + 7, tiny.convert_tokens_to_ids(b"\n\n"), ord("x")]
    assert max(ids[3:]) < n(tiny)
    assert tiny.decode(ids[3:]) == "<|user|>"
    with pytest.raises(TokenizerError, match="is no special token"):
        tiny.encode_segments([Segment("<|usr|>", True)])


@given(content=st.text(), answer=st.text(min_size=1))
@SHARED_FIXTURE
def test_the_ids_of_a_conversation_decode_to_its_text(tiny, content, answer):
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    ids = tiny.apply_chat_template(messages)
    text = tiny.apply_chat_template(messages, tokenize=False)
    assert tiny.decode(ids, spaces_between_special_tokens=False) == text


def test_real_tool_dialogues_decode_to_their_text(published):
    rows = json.loads(shared_file("data/glaive_toolcall_en_demo.json").read_text(encoding="utf-8"))
    roles = {"human": "user", "gpt": "assistant", "function_call": "assistant"}
    for row in rows[:100]:
        turns = row["conversations"]
        messages = [
            {"role": roles.get(turn["from"], "observation"), "content": turn["value"]}
            for turn in turns
        ]
        tools = json.loads(row["tools"]) if row["tools"] else None
        ids = published.apply_chat_template(messages, tools=tools)
        text = published.apply_chat_template(messages, tools=tools, tokenize=False)
        assert published.decode(ids, spaces_between_special_tokens=False) == text
        assert sum(i >= published.vocab_size for i in ids) == 2 + bool(tools) + len(messages)


def test_the_order_of_arguments_is_upstreams(tiny) -> None:
    text = tiny.apply_chat_template(USER, None, True, False)
    assert text == tiny.apply_chat_template(USER, add_generation_prompt=True, tokenize=False)
    assert (
        tiny.apply_chat_template(USER, "{{ messages[0].content }}", False, False)
        == (USER[0]["content"])
    )


def test_tokens_these_vocabularies_have_not_are_none(tiny) -> None:
    for role in ("bos", "unk", "sep", "cls", "mask"):
        assert getattr(tiny, f"{role}_token") is getattr(tiny, f"{role}_token_id") is None
    assert tiny.is_fast is False
