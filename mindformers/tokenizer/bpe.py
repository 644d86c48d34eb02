"""Byte-pair encoding over a rank file: text to ranks, ranks to bytes. Knows no special tokens.

A rank file holds one ``base64(token bytes) SP rank`` per line, ranks 0..n-1, all 256 bytes among
the tokens.
"""

from __future__ import annotations

import hashlib
import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import regex
import tiktoken

from mindformers.errors import TokenizerError

# Source: tokenization_chatglm.py of glm-4-9b-chat.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MAX_FILE_BYTES = 64 * 2**20  # GLM-4's own file has 2.6 MB

# The backend's regex engine overflows its stack on a run of some hundred thousand blanks.
_LONG_RUN = 20_000
_LONG_BLANK = re.compile(rf"\s{{{_LONG_RUN}}}")


def read_rank_file(path: Path) -> list[bytes]:
    """Read and check a rank file; return the token bytes, indexed by rank.

    Raises:
        TokenizerError: If the file is missing, empty, too large, of another format, or a line of it
            is wrong.
    """
    data = _read(path)
    lines = data.splitlines()
    known: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        encoded, _, rank_text = line.partition(b" ")
        try:
            token = a2b_base64(encoded)
        except ValueError:
            token = b""
        if not token or not rank_text.isdigit() or b2a_base64(token, newline=False) != encoded:
            raise _line_error(path, number, line)
        if token in known:
            raise TokenizerError(
                f"token {token!r} has two ranks, {known[token]} and {int(rank_text)}",
                where=f"{path}:{number}",
                fix="restore the file from the model's repository",
            )
        known[token] = int(rank_text)
    return _by_rank(path, known)


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise TokenizerError(
            "is a folder, not a vocabulary file",
            where=str(path),
            fix="give the tokenizer.model inside it, or use from_pretrained(folder)",
        )
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TokenizerError(
            f"the vocabulary file cannot be read ({error.strerror})",
            where=str(path),
            fix="set vocab_file to the tokenizer.model of a GLM-4 model folder",
        ) from error
    problem = _foreign_format(data)
    if problem:
        raise TokenizerError(
            problem,
            where=str(path),
            allowed="lines of 'base64 rank', as in the tokenizer.model of glm-4-9b",
            fix="take tokenizer.model from a GLM-4 model folder",
        )
    return data


def _foreign_format(data: bytes) -> str:
    head = data[:4096]
    if not data:
        return "the vocabulary file is empty"
    if len(data) > MAX_FILE_BYTES:
        return f"the vocabulary file is larger than {MAX_FILE_BYTES // 2**20} MB"
    if head.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, the file itself was not downloaded"
    if head.lstrip()[:1] in (b"{", b"[") or head.lstrip()[:1] == b"<":
        return "this is JSON or a web page, not a rank file"
    if b"\0" in head or any(byte > 126 for byte in head):
        kind = (
            "a SentencePiece model (GLM-2 and GLM-3 use those)"
            if b"<unk>" in head
            else "a binary file"
        )
        return f"this is {kind}, not a rank file"
    return ""


def _line_error(path: Path, number: int, line: bytes) -> TokenizerError:
    if not line.strip():
        found = "blank line"
    else:
        found = f"{line[:60].decode('ascii', 'backslashreplace')!r} is not 'base64 rank'"
    return TokenizerError(
        found, where=f"{path}:{number}", fix="restore the file from the model's repository"
    )


def _by_rank(path: Path, known: dict[bytes, int]) -> list[bytes]:
    tokens = [b""] * len(known)
    for number, (token, rank) in enumerate(known.items(), start=1):
        if rank >= len(tokens):
            raise TokenizerError(
                f"rank {rank} in a file of {len(tokens)} lines: a rank below it is missing",
                where=f"{path}:{number}",
                fix="restore the file from the model's repository",
            )
        if tokens[rank]:
            raise TokenizerError(
                f"rank {rank} is given twice",
                where=f"{path}:{number}",
                fix="restore the file from the model's repository",
            )
        tokens[rank] = token
    missing = [byte for byte in range(256) if bytes([byte]) not in known]
    if missing:
        raise TokenizerError(
            f"{len(missing)} of the 256 single bytes have no rank, the first is 0x{missing[0]:02x}",
            where=str(path),
            fix="restore the file from the model's repository",
        )
    return tokens


class BytePairEncoder:
    """Encode any text into ranks and back, byte for byte. Immutable; threads may share one.

    Args:
        tokens: Token bytes indexed by rank; all 256 single bytes are among them.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self.tokens = list(tokens)
        self._ranks = {token: rank for rank, token in enumerate(self.tokens)}
        self._encoding = tiktoken.Encoding(
            "glm4", pat_str=SPLIT_PATTERN, mergeable_ranks=self._ranks, special_tokens={}
        )

    def __reduce__(self) -> tuple[type[BytePairEncoder], tuple[list[bytes]]]:
        return BytePairEncoder, (self.tokens,)

    @property
    def num_ranks(self) -> int:
        """How many tokens the vocabulary has, special tokens not counted."""
        return len(self.tokens)

    @cached_property
    def rank_file(self) -> bytes:
        """The vocabulary as the bytes of a rank file."""
        lines = (
            b"%s %d\n" % (b2a_base64(token, newline=False), i)
            for i, token in enumerate(self.tokens)
        )
        return b"".join(lines)

    @cached_property
    def sha256(self) -> str:
        """Hash of ``rank_file``: the same for the same vocabulary, whatever its line ends were."""
        return hashlib.sha256(self.rank_file).hexdigest()

    def rank_of(self, token: bytes) -> int | None:
        """Return the rank of a token, or None when it is not in the vocabulary."""
        return self._ranks.get(token)

    def encode(self, text: str) -> list[int]:
        """Return the ranks of ``text``; the text of a special token is ordinary text here.

        Raises:
            TokenizerError: If the text holds a lone surrogate, which has no UTF-8 form.
        """
        _refuse_surrogates(text)
        if _has_long_blank(text):
            return self._encode_piecewise(text)
        ranks: list[int] = self._encoding.encode_ordinary(text)
        return ranks

    def encode_batch(self, texts: Sequence[str], num_threads: int = 2) -> list[list[int]]:
        """Return the ranks of each text, computed by ``num_threads`` threads.

        Raises:
            TokenizerError: If a text holds a lone surrogate.
        """
        if any(map(_has_long_blank, texts)):
            return [self.encode(text) for text in texts]
        for text in texts:
            _refuse_surrogates(text)
        batch: list[list[int]] = self._encoding.encode_ordinary_batch(
            list(texts), num_threads=num_threads
        )
        return batch

    def _encode_piecewise(self, text: str) -> list[int]:
        ranks: list[int] = []
        for match in regex.finditer(SPLIT_PATTERN, text):
            ranks.extend(self._encoding._encode_single_piece(match.group()))
        return ranks

    def decode(self, ranks: Sequence[int]) -> bytes:
        """Return the bytes of ``ranks``, which may end within a character.

        Raises:
            TokenizerError: If a rank is not in the vocabulary.
        """
        try:
            decoded: bytes = self._encoding.decode_bytes(ranks)
        except (KeyError, OverflowError, TypeError) as error:
            bad = next(
                (r for r in ranks if not isinstance(r, int) or not 0 <= r < self.num_ranks), None
            )
            raise TokenizerError(
                f"no token has rank {bad!r}", allowed=f"0 to {self.num_ranks - 1}"
            ) from error
        return decoded


def _has_long_blank(text: str) -> bool:
    return len(text) >= _LONG_RUN and _LONG_BLANK.search(text) is not None


def _refuse_surrogates(text: str) -> None:
    """Raise TokenizerError for half a character: the backend would replace it without a word."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"lone surrogate U+{ord(text[error.start]):04X} at character {error.start} of the text",
            fix="it is half of a character: repair the text where it was read",
        ) from error


def load_encoder(path: str | Path) -> BytePairEncoder:
    """Return the encoder of a rank file; an unchanged file is parsed once per process.

    Raises:
        TokenizerError: As ``read_rank_file``.
    """
    path = Path(path)
    try:
        status = path.stat()
    except OSError:
        return BytePairEncoder(read_rank_file(path))  # raises, and says why
    return _load(path.resolve(), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _load(path: Path, modified_ns: int, size: int) -> BytePairEncoder:
    return BytePairEncoder(read_rank_file(path))
