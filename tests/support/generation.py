"""A model and a tokenizer small enough to work out by hand."""

from __future__ import annotations

import codecs
import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

END = 9  # the end token of the chains below


def chain(*steps: tuple[int, int], vocab_size: int = 10) -> Callable[[Sequence[int]], np.ndarray]:
    """Return logits by the last token: ``(a, b)`` makes b follow a, and END follows the others."""
    table = np.zeros((vocab_size, vocab_size), np.float32)
    table[:, END] = 1.0
    for before, after in steps:
        table[before, after] = 2.0
    return lambda ids: table[ids[-1]]


def pair_logits(vocab_size: int, seed: int = 0) -> Callable[[Sequence[int]], np.ndarray]:
    """Return logits by the last two tokens: texts soon repeat themselves."""
    table = np.random.default_rng(seed).normal(0, 2, (vocab_size, vocab_size, vocab_size))
    return lambda ids: table[ids[-2] if len(ids) > 1 else 0, ids[-1]].astype(np.float32)


def history_logits(vocab_size: int) -> Callable[[Sequence[int]], np.ndarray]:
    """Return logits that depend on every token so far and its place: a mixed-up row shows."""

    def logits(ids: Sequence[int]) -> np.ndarray:
        key = [len(ids), *(int(token) for token in ids)]
        return np.random.default_rng(key).normal(0, 2, vocab_size).astype(np.float32)

    return logits


class FakeRunner:
    """A runner over a function of the ids so far; it remembers which rows every step asked for."""

    def __init__(
        self,
        logits: Callable[[Sequence[int]], np.ndarray],
        vocab_size: int = 10,
        max_length: int = 64,
    ) -> None:
        self.logits, self.vocab_size, self.max_length = logits, vocab_size, max_length
        self.rows: list[list[int]] = []
        self.decoded_rows: list[list[int]] = []
        self.num_released = 0
        self.extended: list[list[int]] = []  # tokens of each row, of every call of extend
        self.free = max_length  # what room() says

    def prefill(self, prompts: list[list[int]]) -> np.ndarray:
        self.rows = [list(prompt) for prompt in prompts]
        return np.stack([self.logits(row) for row in self.rows])

    def decode(self, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
        assert tokens.dtype == np.int32
        assert tokens.shape == rows.shape
        self.decoded_rows.append(rows.tolist())
        for token, row in zip(tokens, rows, strict=True):
            self.rows[row].append(int(token))
        return np.stack([self.logits(self.rows[row]) for row in rows])

    def extend(self, tokens: Sequence[Sequence[int]], rows: np.ndarray) -> np.ndarray:
        self.extended.append([len(more) for more in tokens])
        found = []
        for more, row in zip(tokens, rows, strict=True):
            assert len(more) > 0
            for token in more:
                self.rows[row].append(int(token))
                found.append(self.logits(self.rows[row]))
            assert len(self.rows[row]) < self.max_length
        return np.stack(found)

    def rollback(self, lengths: Sequence[int], rows: Sequence[int]) -> None:
        for length, row in zip(lengths, rows, strict=True):
            assert 1 <= length <= len(self.rows[row])
            del self.rows[row][length:]

    def room(self, num_rows: int) -> int:
        return self.free

    def release(self) -> None:
        self.num_released += 1


class ByteTokenizer:
    """Ids 0..255 are bytes; the texts of ``pieces`` and the control tokens ``special`` follow."""

    def __init__(self, pieces: Sequence[str] = (), special: Sequence[str] = ()) -> None:
        self.table = [bytes([number]) for number in range(256)]
        self.table += [piece.encode() for piece in pieces]
        self.special_tokens = {text: len(self.table) + n for n, text in enumerate(special)}
        self.table += [text.encode() for text in special]

    def __len__(self) -> int:
        return len(self.table)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False, **_: Any) -> str:
        hidden = set(self.special_tokens.values()) if skip_special_tokens else set()
        joined = b"".join(self.table[number] for number in ids if number not in hidden)
        return joined.decode("utf-8", "replace")

    def stream_decoder(self, skip_special_tokens: bool = False) -> Any:
        hidden = set(self.special_tokens.values()) if skip_special_tokens else set()
        return _ByteStream(self.table, hidden)


class DecodeOnlyTokenizer:
    """The same tokenizer without a decoder of its own."""

    def __init__(self, pieces: Sequence[str] = (), special: Sequence[str] = ()) -> None:
        self._inner = ByteTokenizer(pieces, special)
        self.special_tokens = self._inner.special_tokens

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        return self._inner.decode(ids, **options)


class _ByteStream:
    def __init__(self, table: list[bytes], hidden: set[int]) -> None:
        self._table, self._hidden = table, hidden
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def put(self, token_id: int) -> str:
        return "" if token_id in self._hidden else self._utf8.decode(self._table[token_id])

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


def script(*ids: int, vocab_size: int = 300) -> Callable[[Sequence[int]], np.ndarray]:
    """Return logits that make ``ids`` follow a prompt of one token, whatever stands before."""

    def logits(so_far: Sequence[int]) -> np.ndarray:
        row = np.zeros(vocab_size, np.float32)
        row[ids[min(len(so_far) - 1, len(ids) - 1)]] = 5.0
        return row

    return logits


def fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let warnings that are given once be given again, and reach pytest's ``caplog``."""
    monkeypatch.setattr(importlib.import_module("mindformers.logger"), "_seen_once", set())
    monkeypatch.setattr(logging.getLogger("mindformers"), "propagate", True)
