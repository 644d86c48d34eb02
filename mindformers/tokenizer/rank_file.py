"""Rank files: one ``base64(token bytes) SP rank`` per line, ranks 0..n-1, all 256 bytes among them."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mindformers.errors import TokenizerError

MAX_FILE_BYTES = 64 * 2**20  # GLM-4's own file has 2.6 MB


_SINGLE_BYTES = [bytes([byte]) for byte in range(256)]
_encoded = partial(b2a_base64, newline=False)


class RankFile(NamedTuple):
    """A vocabulary: the token bytes, indexed by rank, and the file as ``rank_file_of`` writes it."""

    tokens: list[bytes]
    content: bytes


def rank_file_of(tokens: Sequence[bytes]) -> bytes:
    """Return the bytes of a rank file, written as the published ones are."""
    return _lines_of(list(map(_encoded, tokens)))


def _lines_of(encoded: Sequence[bytes]) -> bytes:
    return b"".join(map(b"%s %d\n".__mod__, zip(encoded, range(len(encoded)))))  # noqa: B905 -- as long


def read_rank_file(path: Path) -> RankFile:
    """Read and check a rank file.

    Raises:
        TokenizerError: If the file is missing, empty, too large, of another format, or a line of it
            is wrong.
    """
    data = _read(path)
    tokens = _published(data)
    if tokens is not None:
        return RankFile(tokens, data)
    tokens = _read_lines(path, data.splitlines())
    return RankFile(tokens, rank_file_of(tokens))


def _published(data: bytes) -> list[bytes] | None:
    """Return the tokens of a file that is to the byte what ``rank_file_of`` writes, without a look at each line."""
    encoded = [line.partition(b" ")[0] for line in data.split(b"\n")[:-1]]
    try:
        tokens = list(map(a2b_base64, encoded))
    except ValueError:
        return None
    known = set(tokens)
    is_whole = len(known) == len(tokens) and b"" not in known and known.issuperset(_SINGLE_BYTES)
    is_same = is_whole and list(map(_encoded, tokens)) == encoded and _lines_of(encoded) == data
    return tokens if is_same else None


def _read_lines(path: Path, lines: Sequence[bytes]) -> list[bytes]:
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
    return tokens_by_rank(path, known)


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


def tokens_by_rank(path: Path, known: Mapping[bytes, int]) -> list[bytes]:
    """Return the tokens of ``{token: rank}`` in rank order; ``path`` is where they were read.

    Raises:
        TokenizerError: If a rank is missing or given twice, or one of the 256 bytes has none.
    """
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
    missing = [byte for byte in _SINGLE_BYTES if byte not in known]
    if missing:
        raise TokenizerError(
            f"{len(missing)} of the 256 single bytes have no rank, the first is 0x{missing[0][0]:02x}",
            where=str(path),
            fix="restore the file from the model's repository",
        )
    return tokens
