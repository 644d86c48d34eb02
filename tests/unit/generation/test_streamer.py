"""Streamers show whole characters, end properly and pass errors on."""

from __future__ import annotations

import io
import sys
import threading

import numpy as np
import pytest

from mindformers.errors import GenerationError
from mindformers.generation.streamer import (
    BaseStreamer,
    TextIteratorStreamer,
    TextStreamer,
    streaming,
)
from tests.support.generation import ByteTokenizer, DecodeOnlyTokenizer

FAMILY = "a簌👩‍👩‍👧é\n"
TOKENIZERS = [ByteTokenizer, DecodeOnlyTokenizer]


class Collect(TextStreamer):
    """Keeps the pieces."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.pieces, self.ends = [], 0

    def on_finalized_text(self, text, stream_end=False):
        self.pieces.append(text)
        self.ends += stream_end


@pytest.mark.parametrize("make", TOKENIZERS)
def test_every_byte_its_own_token_gives_whole_characters_as_soon_as_they_are_complete(make):
    streamer = Collect(make())
    streamer.put(np.array([65], np.int32))
    lengths = []
    for byte in FAMILY.encode():
        streamer.put(np.array([byte], np.int32))
        lengths.append(len("".join(streamer.pieces)))
    streamer.end()
    assert "".join(streamer.pieces) == "A" + FAMILY
    assert not any("\ufffd" in piece for piece in streamer.pieces)
    wanted = [1 + len(FAMILY.encode()[: n + 1].decode("utf-8", "ignore"))
              for n in range(len(FAMILY.encode()))]  # fmt: skip
    assert lengths == wanted


@pytest.mark.parametrize("make", TOKENIZERS)
def test_a_character_that_never_completes_is_dropped(make):
    streamer = Collect(make())
    for token in (72, *"簌".encode()[:2]):
        streamer.put(token)
    streamer.end()
    assert "".join(streamer.pieces) == "H"
    assert streamer.ends == 1


@pytest.mark.parametrize("make", TOKENIZERS)
@pytest.mark.parametrize(("skip", "shown"), [(True, "hi"), (False, "hi<|user|>")])
def test_control_tokens_are_shown_only_when_asked_for(make, skip, shown):
    tokenizer = make(special=["<|user|>"])
    streamer = Collect(tokenizer, skip_special_tokens=skip)
    for token in (*b"hi", tokenizer.special_tokens["<|user|>"]):
        streamer.put(token)
    streamer.end()
    assert "".join(streamer.pieces) == shown


def test_a_control_token_after_half_a_character_shows_no_replacement_mark():
    tokenizer = ByteTokenizer(special=["<|user|>"])
    streamer = Collect(tokenizer, skip_special_tokens=False)
    for token in (*"簌".encode()[:2], 256):
        streamer.put(token)
    streamer.end()
    assert "".join(streamer.pieces) == "<|user|>"


def test_arguments_of_decode_are_passed_on():
    class Loud(DecodeOnlyTokenizer):
        def decode(self, ids, loud=False, **options):
            text = super().decode(ids, **options)
            return text.upper() if loud else text

        def stream_decoder(self, skip_special_tokens=False):
            raise AssertionError("decode_kwargs need decode()")

    streamer = Collect(Loud(), loud=True)
    for byte in b"abc":
        streamer.put(byte)
    streamer.end()
    assert "".join(streamer.pieces) == "ABC"


def test_text_goes_to_stdout_with_one_line_end(capsys):
    streamer = TextStreamer(ByteTokenizer(), skip_prompt=True)
    for _ in range(2):  # an answer's end makes it ready for the next one
        streamer.put(np.array([list(b"prompt")]))
        streamer.put([104])
        streamer.put(105)
        streamer.end()
    assert capsys.readouterr().out == "hi\nhi\n"


def test_an_ascii_terminal_gets_code_points(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    streamer = TextStreamer(ByteTokenizer())
    streamer.put("好".encode()[0])
    streamer.put(list("好".encode()[1:]))
    streamer.end()
    assert raw.getvalue() == b"\\u597d\n"


def test_several_rows_are_refused():
    for rows in ([np.array([1]), np.array([2])], np.array([[1], [2]])):
        with pytest.raises(GenerationError, match=r"TextStreamer: shows one answer, .* 2 prompts"):
            TextStreamer(ByteTokenizer()).put(rows)


def test_a_missing_or_useless_tokenizer_is_refused():
    with pytest.raises(GenerationError, match="TextStreamer: no tokenizer was given"):
        TextStreamer()
    with pytest.raises(
        GenerationError, match="tokenizer: an object of type int cannot turn ids into text"
    ):
        TextStreamer(3)


def test_the_iterator_gives_the_answer_to_another_thread_and_stops():
    streamer = TextIteratorStreamer(ByteTokenizer(), skip_prompt=True, timeout=10)

    def work():
        for _ in range(2):
            with streaming(streamer):
                streamer.put(np.array([1, 2]))
                for byte in FAMILY.encode():
                    streamer.put(np.array([byte]))

    thread = threading.Thread(target=work)
    thread.start()
    assert "".join(streamer) == FAMILY
    with pytest.raises(StopIteration):
        next(streamer)
    assert "".join(streamer) == FAMILY  # a second loop is the second answer
    thread.join()


def test_the_reader_gets_the_text_before_an_error_then_the_error():
    streamer = TextIteratorStreamer(ByteTokenizer(), timeout=10)
    error = GenerationError("the model broke")

    def answer():
        with streaming(streamer):
            streamer.put(104)
            raise error

    with pytest.raises(GenerationError, match="the model broke"):
        answer()
    assert next(streamer) == "h"
    with pytest.raises(GenerationError) as caught:
        next(streamer)
    assert caught.value is error
    with pytest.raises(StopIteration):
        next(streamer)


def test_the_reader_waits_no_longer_than_told_and_can_start_afresh():
    streamer = TextIteratorStreamer(ByteTokenizer(), timeout=0.01)
    with pytest.raises(GenerationError, match=r"no new text for 0.01 s; .*raise timeout"):
        next(streamer)
    streamer.put(104)
    streamer.clear()
    streamer.put(105)
    streamer.end()
    assert list(streamer) == ["i"]


def test_a_streamer_of_ids_needs_put_and_end_only():
    class Ids(BaseStreamer):
        def __init__(self):
            self.ended = 0

        def put(self, value):
            raise RuntimeError("full")

        def end(self):
            self.ended += 1

    streamer = Ids()
    streamer.put_text("part")
    with pytest.raises(RuntimeError, match="full"), streaming(streamer):
        streamer.put(1)
    assert streamer.ended == 1
    with (
        pytest.raises(GenerationError, match=r"streamer: an object of type int has no put\(\) and"),
        streaming(3),
    ):
        pass
    with streaming(None):
        pass


@pytest.mark.parametrize(
    ("options", "shown"), [({}, "h"), ({"skip_special_tokens": False}, "h<|user|>")]
)
def test_the_iterator_leaves_control_tokens_out_unless_asked(options, shown):
    streamer = TextIteratorStreamer(ByteTokenizer(special=["<|user|>"]), **options)
    streamer.put([104, 256])
    streamer.end()
    assert "".join(streamer) == shown
