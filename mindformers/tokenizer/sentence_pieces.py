"""``SentencePieces``: a SentencePiece model as a vocabulary; needs the package only when one is opened."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from mindformers.errors import MissingExtraError, TokenizerError
from mindformers.tokenizer.bpe import refuse_surrogates

_SPACE = "\u2581"  # how SentencePiece writes a blank
_MAX_BYTES = 2**28
# The first field of the file is a piece, whose first field is its text; no text begins so.
_PROTOBUF = re.compile(rb"\n[\x01-\x7f]\n")
_RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\s")


class SentencePieces:
    """Encode text into the pieces of a model and back. Threads may share one.

    Args:
        content: The model file's bytes.
        where: The file, for errors.

    Raises:
        MissingExtraError: If the package is not installed.
        TokenizerError: If it is no SentencePiece model, or lacks the pieces for begin, end or unknown.
    """

    def __init__(self, content: bytes, where: str = "") -> None:
        self.rank_file = content
        self._where = where
        self._processor = _processor(content, where)
        count = self._processor.get_piece_size()
        self.pieces: list[str] = self._processor.id_to_piece(list(range(count)))
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        self.unk_id: int = self._processor.unk_id()
        if min(self.bos_id, self.eos_id, self.unk_id) < 0:
            raise TokenizerError(
                "the model has no piece for begin, end or unknown",
                where=where,
                fix="take the tokenizer.model of the published ChatGLM directory",
            )
        self._ids = {piece: number for number, piece in enumerate(self.pieces)}
        self.tokens = [self._bytes_of(number) for number in range(count)]
        # Asked of the library, which does not tell its settings otherwise.
        shown = self._processor.decode_pieces([_SPACE, _SPACE, "a"])
        self._blanks_dropped = 2 - shown.count(" ")

    def __reduce__(self) -> tuple[type[SentencePieces], tuple[bytes, str]]:
        return SentencePieces, (self.rank_file, self._where)

    @property
    def num_ranks(self) -> int:
        """How many pieces the model has."""
        return len(self.pieces)

    @cached_property
    def sha256(self) -> str:
        """Hash of the model file."""
        return hashlib.sha256(self.rank_file).hexdigest()

    def rank_of(self, token: bytes) -> int | None:
        """Return the id of a piece, or None when it is not in the model."""
        return self._ids.get(token.decode("utf-8", "replace"))

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``; the texts of control pieces are ordinary text.

        Raises:
            TokenizerError: If the text holds a lone surrogate, which has no UTF-8 form.
        """
        refuse_surrogates(text)
        ids: list[int] = self._processor.encode(text)
        return ids

    def decode(self, ranks: Sequence[int]) -> bytes:
        """Return the text of ids as bytes, without the blank SentencePiece puts before a text.

        Raises:
            TokenizerError: If an id is none of the model's.
        """
        parts: list[bytes] = []
        has_begun = False
        for rank in ranks:
            if not isinstance(rank, int) or not 0 <= rank < self.num_ranks:
                raise TokenizerError(
                    f"no piece has id {rank!r}", allowed=f"0 to {self.num_ranks - 1}"
                )
            token = self.tokens[rank]
            if not has_begun:
                token, has_begun = self.begin(token)
            parts.append(token)
        return b"".join(parts)

    def begin(self, token: bytes) -> tuple[bytes, bool]:
        """Return a token without the blank that is put before a text, and whether the text has begun."""
        if not self._blanks_dropped or not token.startswith(b" "):
            return token, bool(token)
        # A model that removes blanks drops them all, others the one that was added.
        return token[1:], len(token) > 1 or self._blanks_dropped == 1

    def _bytes_of(self, number: int) -> bytes:
        if self._processor.is_control(number) or number == self.unk_id:
            return b""
        piece = self.pieces[number]
        if self._processor.is_byte(number):
            return bytes([int(piece[3:-1], 16)])  # <0xNN>
        return piece.replace(_SPACE, " ").encode("utf-8")


def _processor(content: bytes, where: str) -> Any:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise MissingExtraError(
            "the tokenizer of ChatGLM2 and ChatGLM3 needs sentencepiece, which is not installed",
            where=where,
            fix="run: pip install 'mindformers[glm3]'",
        ) from error
    try:
        processor = SentencePieceProcessor()
        processor.LoadFromSerializedProto(content)
    except RuntimeError as error:
        raise TokenizerError(
            "is no SentencePiece model",
            where=where,
            fix="take the tokenizer.model of the published ChatGLM directory",
        ) from error
    return processor


def holds_sentence_pieces(path: Path) -> bool:
    """Tell whether a ``tokenizer.model`` looks like a SentencePiece model and no text of ranks (GLM-4's form)."""
    try:
        with path.open("rb") as stream:
            return _PROTOBUF.match(stream.read(64)) is not None
    except OSError:
        return False


def load_sentence_pieces(path: str | Path) -> SentencePieces:
    """Return the vocabulary of a SentencePiece model file; read once while it is unchanged.

    Raises:
        MissingExtraError: If the package is not installed.
        TokenizerError: If the file cannot be used.
    """
    path = Path(path)
    try:
        status = path.stat()
        if status.st_size > _MAX_BYTES:
            raise TokenizerError(
                f"{status.st_size} bytes are too many for a vocabulary", where=str(path)
            )
        return _load(path.resolve(), status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise TokenizerError(
            f"cannot be read ({error.strerror})",
            where=str(path),
            fix="give the path of tokenizer.model",
        ) from error


@lru_cache(maxsize=4)
def _load(path: Path, modified_ns: int, size: int) -> SentencePieces:
    content = path.read_bytes()
    if _RANK_LINE.match(content):
        raise TokenizerError(
            "is GLM-4's form of a vocabulary, no SentencePiece model",
            where=str(path),
            fix="open it with ChatGLM4Tokenizer",
        )
    return SentencePieces(content, str(path))
