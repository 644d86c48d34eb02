"""SentencePieces: what the library encodes and decodes, piece by piece as well."""

from __future__ import annotations

import pickle
import sys

import pytest

from mindformers.errors import MissingExtraError, TokenizerError
from mindformers.tokenizer.sentence_pieces import holds_sentence_pieces, load_sentence_pieces
from tests.support.sentence_pieces import write_tiny_model
from tests.support.vocab import write_tiny_vocab

TEXTS = [
    "Hello world, this is a small model.",
    "你好，世界。 今天天气很好",
    "  two blanks before,  two inside and after  ",
    "line\n\n  indented\ttab",
    "𠮷 🎉 é — bytes of what was never seen",
    "</s> <s> <unk> <0x41> [gMASK] sop",
    "▁",
    "",
]


@pytest.fixture(params=[False, True], ids=["blanks kept", "blanks removed"])
def both(request, tmp_path):
    path = write_tiny_model(tmp_path, remove_blanks=request.param)
    library = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_file=str(path))
    return load_sentence_pieces(path), library


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_are_those_of_sentencepiece(both, text):
    ours, library = both
    ids = ours.encode(text)
    assert ids == library.encode(text)
    assert ours.decode(ids).decode("utf-8") == library.decode(ids)


def test_every_way_to_begin_a_text_is_that_of_sentencepiece(both):
    ours, library = both
    blank, word = library.piece_to_id("▁"), library.piece_to_id("▁is")
    byte = library.piece_to_id("<0x0A>")
    for ids in ([blank, word], [blank, blank, word], [word, word], [byte, word], [1, word, 2, word],
                [1, blank, blank, byte, blank]):  # fmt: skip
        assert ours.decode(ids).decode("utf-8") == library.decode(ids), ids


def test_text_never_becomes_a_control_piece(both):
    ours, library = both
    control = {library.bos_id(), library.eos_id()}
    for text in ("</s>", "a</s>b", "<s>", "<unk>"):
        assert not control & set(ours.encode(text))


def test_pieces_know_their_ids_and_survive_pickling(both):
    ours, library = both
    assert ours.num_ranks == library.get_piece_size() == len(ours.tokens)
    assert ours.rank_of("▁is".encode()) == library.piece_to_id("▁is")
    assert ours.rank_of(b"no such piece") is None
    again = pickle.loads(pickle.dumps(ours))
    assert again.encode("你好 world") == ours.encode("你好 world")
    assert again.sha256 == ours.sha256


def test_bad_files_and_texts_are_told_apart(tmp_path):
    with pytest.raises(TokenizerError, match="No such file.*give the path of tokenizer.model"):
        load_sentence_pieces(tmp_path / "tokenizer.model")
    (tmp_path / "noise.model").write_bytes(b"\x08\x01 this is no protobuf")
    with pytest.raises(TokenizerError, match="is no SentencePiece model.*published ChatGLM"):
        load_sentence_pieces(tmp_path / "noise.model")
    ranks = write_tiny_vocab(tmp_path / "ranks")
    assert not holds_sentence_pieces(ranks)
    with pytest.raises(TokenizerError, match="GLM-4's form.*ChatGLM4Tokenizer"):
        load_sentence_pieces(ranks)
    pieces = write_tiny_model(tmp_path / "pieces")
    assert holds_sentence_pieces(pieces)
    (tmp_path / "lines").write_bytes(b"\n \nAA== 0\n")
    with pytest.raises(TokenizerError, match=r"lone surrogate U\+D800 at character 1"):
        load_sentence_pieces(pieces).encode("a\ud800")


def test_without_the_package_the_pip_line_is_shown(tmp_path, monkeypatch):
    path = write_tiny_model(tmp_path)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mindformers\[glm3\]'"):
        load_sentence_pieces(path)
