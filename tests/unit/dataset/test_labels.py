"""What is learnt, by hand: which turns, rows that are too long, rows without a label; and of real tool dialogues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindformers.dataset.encode import Prompt, encode_conversation, encode_conversations
from mindformers.dataset.encoding import encode_files
from mindformers.dataset.formats import read_conversations
from mindformers.dataset.row_encoder import EncodeOptions
from mindformers.dataset.row_store import TokenPacker
from mindformers.errors import DataError
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.tools.dataset_preprocess.preview import trained_runs
from tests.support.shared import shared_file
from tests.support.vocab import tiny_tokens, write_tiny_vocab

# As in test_encode: bytes are their own ids, the control tokens follow the vocabulary.
N = len(tiny_tokens())
M, P, U, A, OB = N + 2, N + 4, N + 7, N + 8, N + 9
_, NL = -100, 10
B, C, D, F, G, Q, X = (ord(letter) for letter in "bcdfgqx")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatGLM4Tokenizer:
    return ChatGLM4Tokenizer(write_tiny_vocab(tmp_path_factory.mktemp("vocab")))


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def answer(content: str, **more: str) -> dict[str, str]:
    return {"role": "assistant", "content": content, **more}


TWO_TURNS = [user("q"), answer("b"), user("x"), answer("c")]
TWO_TURNS_IDS = [M, P, U, NL, Q, A, NL, B, U, NL, X, A, NL, C, U]


def encode(
    tokenizer: Any, messages: list[dict], length: int, **options: Any
) -> list[tuple[list, list]]:
    """Return ids and labels of every row."""
    rows, errors = encode_conversations(
        tokenizer, [Prompt(messages, None, "f:1")], length, **options
    )
    if errors[0] is not None:
        raise errors[0]
    seams = np.cumsum(rows.num_tokens)[:-1]
    pairs = zip(np.split(rows.input_ids, seams), np.split(rows.labels, seams), strict=True)
    return [(ids.tolist(), labels.tolist()) for ids, labels in pairs]


def test_every_answer_is_learnt_or_the_last_one(tokenizer: Any) -> None:
    all_turns = [_, _, _, _, _, NL, B, U, _, _, _, NL, C, U, _]
    last_turn = [_, _, _, _, _, _, _, _, _, _, _, NL, C, U, _]
    assert encode(tokenizer, TWO_TURNS, 20) == [(TWO_TURNS_IDS, all_turns)]
    assert encode(tokenizer, TWO_TURNS, 20, train_on="last") == [(TWO_TURNS_IDS, last_turn)]


def test_of_a_tool_dialogue_the_last_turn_is_the_last_message(tokenizer: Any) -> None:
    messages = [
        user("q"),
        answer("{}", metadata="f"),
        {"role": "observation", "content": "x"},
        answer("b"),
    ]
    ids = [M, P, U, NL, Q, A, F, NL, 123, 125, OB, NL, X, A, NL, B, U]
    # The call is learnt to the role token that ends it; what the tool says is not.
    assert encode(tokenizer, messages, 20) == [
        (ids, [_, _, _, _, _, F, NL, 123, 125, OB, _, _, _, NL, B, U, _])
    ]
    assert encode(tokenizer, messages, 20, train_on="last") == [
        (ids, [_, _, _, _, _, _, _, _, _, _, _, _, _, NL, B, U, _])
    ]


def test_the_last_turn_of_each_conversation_is_its_own(tokenizer: Any) -> None:
    prompts = [Prompt(TWO_TURNS), Prompt([user("q"), answer("d")])]
    rows, errors = encode_conversations(tokenizer, prompts, 20, train_on="last")
    assert errors == [None, None]
    assert rows.num_trained.tolist() == [3, 3]
    assert rows.labels[rows.labels >= 0].tolist() == [NL, C, U, NL, D, U]


@pytest.mark.parametrize(
    ("length", "cuts"), [(14, [14]), (15, [15]), (5, [5, 5, 5]), (7, [7, 7]), (8, [8, 7])]
)
def test_a_split_conversation_loses_no_label(tokenizer: Any, length: int, cuts: list[int]) -> None:
    labels = [_, _, _, _, _, NL, B, U, _, _, _, NL, C, U, _]
    rows = encode(tokenizer, TWO_TURNS, length, too_long="split", keeps_unlearnt=True)
    assert [len(ids) for ids, _labels in rows] == cuts
    kept = sum(cuts)  # the closing token has no label: it needs no row of its own
    assert [each for ids, _labels in rows for each in ids] == TWO_TURNS_IDS[:kept]
    assert [each for _ids, learnt in rows for each in learnt] == labels[:kept]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.text("bcq ", min_size=1, max_size=9), st.text("dfx\n", min_size=1, max_size=9)),
             min_size=1, max_size=4),
    st.integers(3, 40),
)  # fmt: skip
def test_no_cut_changes_what_is_learnt(
    tokenizer: Any, turns: list[tuple[str, str]], length: int
) -> None:
    messages = [
        each for question, said in turns for each in (user(f"q{question}"), answer(f"d{said}"))
    ]
    ((ids, labels),) = encode(tokenizer, messages, 1000)
    pieces = encode(tokenizer, messages, length, too_long="split", keeps_unlearnt=True)
    joined = [each for _ids, learnt in pieces for each in learnt]
    assert joined + [_] * (len(labels) - len(joined)) == labels
    assert len(labels) - len(joined) <= 1
    assert all(len(piece) <= length for piece, _learnt in pieces)
    ((begin, learnt),) = encode(tokenizer, messages, length, keeps_unlearnt=True)
    assert (begin, learnt) == (ids[:length], labels[:length])
    ((_ids, last),) = encode(tokenizer, messages, 1000, train_on="last")
    final = len(labels) - 1 - labels[::-1].index(U)  # the role token that ends the last answer
    begin_of_last = max(place for place in range(final) if ids[place] == A)
    assert last == [_] * begin_of_last + labels[begin_of_last:]


def test_pieces_without_a_label_are_left_out_unless_they_are_to_be_kept(tokenizer: Any) -> None:
    assert [ids for ids, _labels in encode(tokenizer, TWO_TURNS, 5, too_long="split")] == [
        TWO_TURNS_IDS[5:10], TWO_TURNS_IDS[10:],
    ]  # fmt: skip
    late = [user("q" * 20), answer("b")]
    with pytest.raises(
        DataError, match="every label would be -100: the answer begins after token 8"
    ):
        encode(tokenizer, late, 8)
    ((ids, labels),) = encode(tokenizer, late, 8, keeps_unlearnt=True)
    assert (len(ids), set(labels)) == (8, {_})


def test_plain_text_is_learnt_from_its_first_token_to_its_end(tokenizer: Any) -> None:
    end = N  # <|endoftext|>
    prompts = [
        Prompt([], text="bcd"),
        Prompt([user("q"), answer("b")]),
        Prompt([], text="<|user|>"),
    ]
    rows, errors = encode_conversations(tokenizer, prompts, 20, train_on="last")
    assert errors == [None, None, None]
    seams = np.cumsum(rows.num_tokens)[:-1]
    found = [part.tolist() for part in np.split(rows.input_ids, seams)]
    learnt = [part.tolist() for part in np.split(rows.labels, seams)]
    assert (found[0], learnt[0]) == ([M, P, B, C, D, end], [_, B, C, D, end, _])
    assert learnt[1] == [_, _, _, _, _, NL, B, U, _]
    assert U not in found[2]  # a control token that text spells out is text
    assert learnt[2] == [_, *found[2][2:], _]


def test_long_text_is_split_without_loss(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "bcdfgqx" * 10}) + "\n", encoding="utf-8")
    (chunk,) = encode_files([path], tokenizer, EncodeOptions(16, "split"), packer=TokenPacker())
    assert (chunk.rows.sizes // 8).tolist() == [16, 16, 16, 16, 9]
    assert chunk.tally.trained_tokens == 71  # 70 letters and the end
    with pytest.raises(DataError, match="a.jsonl:1: 'text' is empty"):
        path.write_text('{"text": " "}', encoding="utf-8")
        list(encode_files([path], tokenizer, EncodeOptions(16)))


@pytest.mark.parametrize("packer", [TokenPacker(), None], ids=["store", "mindrecord"])
def test_workers_hand_over_more_rows_than_there_were_conversations(
    tokenizer: Any, tmp_path: Path, packer: TokenPacker | None
) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": "bcdfgqx" * (40 + number)}) for number in range(300)]
    path.write_text("\n".join(lines), encoding="utf-8")
    options = EncodeOptions(16, "split")
    found = [
        [(bytes(chunk.rows.data), chunk.rows.sizes.tolist()) for chunk in encode_files(
            [path], tokenizer, options, num_workers=workers, packer=packer)]
        for workers in (1, 2)
    ]  # fmt: skip
    assert found[0] == found[1]
    assert sum(len(sizes) for _data, sizes in found[0]) > 300 * 15


def files_of(tmp_path: Path) -> Path:
    rows = [
        {"messages": TWO_TURNS}, {"messages": [user("q" * 30), answer("b")]},
        {"messages": [user("q"), answer("b" * 30)]}, {"messages": [user("q"), answer("c")]},
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(("options", "lengths", "counts"), [
    ({"too_long": "truncate"}, [15, 16, 9], {"nothing to learn": 1}),
    ({"too_long": "drop"}, [15, 9], {"too long": 2}),
    ({"too_long": "split"}, [15, 6, 16, 16, 6, 9], {}),
    ({"too_long": "truncate", "no_label": "keep"}, [15, 16, 16, 9], {}),
])  # fmt: skip
def test_policies_are_kept_and_counted(
    tokenizer: Any, tmp_path: Path, options: dict, lengths: list[int], counts: dict
) -> None:
    chunks = list(
        encode_files(
            [files_of(tmp_path)], tokenizer, EncodeOptions(16, **options), packer=TokenPacker()
        )
    )
    tally = chunks[0].tally
    sizes = np.concatenate([chunk.rows.sizes for chunk in chunks]) // 8
    assert sorted(sizes.tolist()) == sorted(lengths)
    assert dict(tally.dropped) == counts
    assert tally.rows_read == 4
    assert tally.split == (1 if options["too_long"] == "split" else 0)
    assert tally.unlearnt == (1 if options.get("no_label") == "keep" else 0)


@pytest.mark.parametrize(("options", "message"), [
    ({"too_long": "error"}, "rows.jsonl:2: the conversation has 38 tokens; allowed: at most 17"),
    ({"no_label": "error"}, "rows.jsonl:2: every label would be -100"),
])  # fmt: skip
def test_a_policy_may_end_the_work(
    tokenizer: Any, tmp_path: Path, options: dict, message: str
) -> None:
    chunks = encode_files([files_of(tmp_path)], tokenizer, EncodeOptions(16, **options))
    assert next(chunks).rows.num_rows == 1  # what came before is whole
    with pytest.raises(DataError, match=message):
        next(chunks)


def test_of_the_real_tool_dialogues_answers_and_calls_are_learnt_and_nothing_else() -> None:
    tokenizer = ChatGLM4Tokenizer(shared_file("data/glm4_tokenizer.model"))
    count = 0
    for talk in read_conversations(shared_file("data/glaive_toolcall_en_demo.json")):
        row = talk.as_dict()
        messages = row["messages"]
        sample = encode_conversation(tokenizer, messages, 8192, tools=row.get("tools"))
        kept = slice(0, sample.num_tokens)
        runs = trained_runs(tokenizer, sample.input_ids[kept], sample.labels[kept])
        followers = [each["role"] for each in messages[1:]] + ["user"]
        expected = "".join(
            f"{each.get('metadata', '')}\n{each['content']}<|{follower}|>"
            for each, follower in zip(messages, followers, strict=True)
            if each["role"] == "assistant"
        )
        assert "".join(text for text, is_learnt in runs if is_learnt) == expected, talk.where
        count += 1
    assert count == 300
