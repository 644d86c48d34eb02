"""Streamers: where the tokens of an answer go while it is being made.

The engine calls ``put`` with the prompt's ids, then with those of each step, and ``end`` when done.
"""

from __future__ import annotations

import queue
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import numpy as np

from mindformers.errors import GenerationError
from mindformers.generation.decoding import open_decoder


class BaseStreamer(ABC):
    """What the engine needs of a streamer; an object with ``put`` and ``end`` alone will do too."""

    @abstractmethod
    def put(self, value: Any) -> None:
        """Take ids: first the prompt's, then those of each step.

        Args:
            value: One prompt: 1-D int32 array of ids. Several: a list with such an array per row,
                empty where a row has nothing new.
        """

    @abstractmethod
    def end(self) -> None:
        """The answer is complete."""

    def put_text(self, text: str) -> None:
        """Take the part of a token's text that stands before a stop string; ids cannot say it."""
        del text

    def fail(self, error: BaseException) -> None:
        """The answer breaks off with ``error``; also raised in the generating thread."""
        del error
        self.end()


class TextStreamer(BaseStreamer):
    """Writes one answer to standard output as it is made, whole characters only.

    Args:
        tokenizer: One with ``stream_decoder`` or ``decode``.
        skip_prompt: Leave out the prompt.
        skip_special_tokens: Leave out control tokens.
        **decode_kwargs: Further arguments of ``tokenizer.decode``.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        skip_prompt: bool = False,
        skip_special_tokens: bool = True,
        **decode_kwargs: Any,
    ) -> None:
        if tokenizer is None:
            raise GenerationError(
                "no tokenizer was given",
                where=type(self).__name__,
                fix="pass the tokenizer that encoded the prompt",
            )
        self._tokenizer = tokenizer
        self._open = lambda: open_decoder(tokenizer, skip_special_tokens, decode_kwargs)
        self._skip_prompt = skip_prompt
        self._decoder = self._open()
        self._is_prompt_next = True

    def put(self, value: Any) -> None:
        """Decode ids and pass on the characters they complete.

        Args:
            value: One id, or the ids of one row as array, list or tensor.

        Raises:
            GenerationError: If the ids of several rows are given.
        """
        ids = self._ids_of_one_row(value)
        is_prompt, self._is_prompt_next = self._is_prompt_next, False
        if is_prompt and self._skip_prompt:
            return
        self.put_text("".join(self._decoder.put(token) for token in ids))

    def put_text(self, text: str) -> None:
        """Pass on text as it is."""
        if text:
            self.on_finalized_text(text)

    def end(self) -> None:
        """Pass on what was held back and end the line; the next ``put`` begins another answer."""
        rest = self._decoder.flush()
        self._restart()
        self.on_finalized_text(rest, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Write ``text``, with a line end after the last. Override to send it elsewhere."""
        write_at_once(sys.stdout, text + ("\n" if stream_end else ""))

    def _restart(self) -> None:
        self._decoder = self._open()
        self._is_prompt_next = True

    def _ids_of_one_row(self, value: Any) -> list[int]:
        value = value.asnumpy() if hasattr(value, "asnumpy") else value
        if isinstance(value, list) and value and hasattr(value[0], "__len__"):
            rows = value
        else:
            array = np.atleast_1d(np.asarray(value))
            rows = [array] if array.ndim == 1 else list(array)
        if len(rows) != 1:
            raise GenerationError(
                f"shows one answer, but the batch has {len(rows)} prompts",
                where=type(self).__name__,
                fix="call generate once per prompt, or write a BaseStreamer for several rows",
            )
        return [int(token) for token in rows[0]]


class TextIteratorStreamer(TextStreamer):
    """Gives the text of one answer to a ``for`` loop, while ``generate`` runs in another thread.

    Args:
        tokenizer: As ``TextStreamer``.
        skip_prompt: Leave out the prompt.
        timeout: Longest wait for the next piece (seconds); None: no limit.
        **decode_kwargs: ``skip_special_tokens`` (True when not given) and further arguments of
            ``tokenizer.decode``.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.timeout = timeout
        self._pieces: queue.Queue[str | BaseException | None] = queue.Queue()
        self._has_ended = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Hand a piece to the reader."""
        if text:
            self._pieces.put(text)
        if stream_end:
            self._pieces.put(None)

    def fail(self, error: BaseException) -> None:
        """Raise ``error`` in the reader, after the text it has not read yet."""
        self._restart()
        self._pieces.put(error)

    def clear(self) -> None:
        """Forget what has not been read, to begin another answer."""
        with self._pieces.mutex:
            self._pieces.queue.clear()
        self._restart()
        self._has_ended = False

    def __iter__(self) -> Iterator[str]:
        self._has_ended = False
        return self

    def __next__(self) -> str:
        """Return the next piece of text.

        Raises:
            StopIteration: At the end of the answer.
            GenerationError: If nothing came within ``timeout``.
        """
        if self._has_ended:
            raise StopIteration
        try:
            piece = self._pieces.get(timeout=self.timeout)
        except queue.Empty as error:
            raise GenerationError(
                f"no new text for {self.timeout} s",
                where=type(self).__name__,
                fix="see whether generate() runs in another thread, or raise timeout",
            ) from error
        if isinstance(piece, str):
            return piece
        self._has_ended = True
        if piece is None:
            raise StopIteration
        raise piece


def write_at_once(output: TextIO, text: str) -> None:
    """Write to a terminal or a file; what its encoding lacks is shown as code points."""
    try:
        output.write(text)
    except UnicodeEncodeError:
        encoding = output.encoding or "ascii"
        output.write(text.encode(encoding, "backslashreplace").decode(encoding))
    output.flush()


@contextmanager
def streaming(streamer: Any) -> Iterator[None]:
    """End ``streamer`` when the block does: with ``end``, or with ``fail`` on an error.

    Args:
        streamer: None, or an object with ``put`` and ``end``.

    Raises:
        GenerationError: If it lacks one of them.
    """
    if streamer is None:
        yield
        return
    if not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise GenerationError(
            f"an object of type {type(streamer).__name__} has no put() and end()",
            where="streamer",
            fix="derive from BaseStreamer",
        )
    try:
        yield
    except BaseException as error:
        if hasattr(streamer, "fail"):
            streamer.fail(error)
        else:
            streamer.end()
        raise
    streamer.end()
