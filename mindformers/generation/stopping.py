"""When an answer ends, and why: an end token, the length, or a stop string found in its text.

Stop strings are looked for in characters, not tokens, so a border between tokens hides none. While
the text may be the beginning of one, the tokens it comes from are held back from the streamer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from mindformers.generation.config import GenerationConfig
from mindformers.generation.decoding import TextDecoder

STOP = "stop"
LENGTH = "length"
TOOL_CALLS = "tool_calls"
STOP_STRING = "stop_string"
CANCELLED = "cancelled"
TIMEOUT = "timeout"
TOOL_CALL_TOKEN = "<|observation|>"  # GLM-4 ends a turn with it to wait for a tool's result


class StopStrings:
    """All stop strings as one automaton: a state is the longest beginning of any of them just read.

    Args:
        strings: None empty.

    Source: Aho and Corasick 1975, Efficient string matching.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._fail: list[int] = [0]
        self.depth: list[int] = [0]  # per state, characters of that beginning
        self.match: list[int] = [0]  # per state, length of the longest stop string that ends here
        for string in strings:
            self._add(string)
        self._link()

    def _add(self, string: str) -> None:
        state = 0
        for character in string:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._fail.append(0)
                self.depth.append(self.depth[state] + 1)
                self.match.append(0)
            state = self._next[state][character]
        self.match[state] = self.depth[state]

    def _link(self) -> None:
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            for character, child in self._next[state].items():
                self._fail[child] = self.advance(self._fail[state], character)
                self.match[child] = self.match[child] or self.match[self._fail[child]]
                waiting.append(child)

    def advance(self, state: int, character: str) -> int:
        """Return the state after one more character; 0 is the state before any."""
        while state and character not in self._next[state]:
            state = self._fail[state]
        return self._next[state].get(character, 0)


class StopTextScanner:
    """Follows the text of one answer and tells which of its tokens may be shown.

    Args:
        strings: The automaton; answers share it.
        decoder: The answer's own.
    """

    def __init__(self, strings: StopStrings, decoder: TextDecoder) -> None:
        self._strings, self._decoder = strings, decoder
        self._state = 0
        self._open: list[int] = []  # ids whose characters are not complete yet
        self._held: deque[tuple[list[int], str]] = deque()  # ids and the text they complete
        self._held_length = 0
        self._parts: list[str] = []
        self._num_taken = 0
        self.is_matched = False
        self.last_text = ""  # shown part of the token in which the stop string begins

    @property
    def text(self) -> str:
        """The text shown so far; the whole answer without the stop string once it has ended."""
        return "".join(self._parts)

    def take(self) -> str:
        """Return the part of ``text`` that is new since the last call."""
        new = self._parts[self._num_taken :]
        self._num_taken = len(self._parts)
        return "".join(new)

    def put(self, token: int) -> list[int]:
        """Take the next token; return the ids that can be shown now.

        After a match nothing more may be put: the held ids are dropped, and ``last_text`` is what
        remains to be shown.
        """
        piece = self._decoder.put(token)
        self._open.append(token)
        for place, character in enumerate(piece):
            self._state = self._strings.advance(self._state, character)
            length = self._strings.match[self._state]
            if length:
                self._close(piece[: place + 1])
                return self._cut(length)
        if piece:
            self._close(piece)
        return self._release(self._strings.depth[self._state])

    def flush(self) -> list[int]:
        """End an answer that no stop string ended: return every id still held back."""
        shown = self._release(0) + self._open
        self._parts.append(self._decoder.flush())
        self._open = []
        return shown

    def _close(self, piece: str) -> None:
        self._held.append((self._open, piece))
        self._held_length += len(piece)
        self._open = []

    def _release(self, keep: int) -> list[int]:
        """Take the ids off the queue that leave at least ``keep`` characters in it."""
        shown: list[int] = []
        while self._held and self._held_length - len(self._held[0][1]) >= keep:
            ids, piece = self._held.popleft()
            self._held_length -= len(piece)
            self._parts.append(piece)
            shown += ids
        return shown

    def _cut(self, length: int) -> list[int]:
        self.is_matched = True
        shown = self._release(length)
        if self._held:
            piece = self._held[0][1]
            self.last_text = piece[: self._held_length - length]
            self._parts.append(self.last_text)
        return shown


class StopRules:
    """The rules of one call that look at token ids.

    Args:
        config: Gives ``eos_token_id`` and ``tool_call_token_id``.
        tool_call_token_id: Used when the config names none.
    """

    def __init__(self, config: GenerationConfig, tool_call_token_id: int | None = None) -> None:
        self.eos_ids = frozenset(config.eos_token_id)
        chosen = config.tool_call_token_id
        self._tool_call = tool_call_token_id if chosen is None else chosen

    def reason_of(self, token: int) -> str:
        """Return why ``token`` ends the answer, or an empty text when it does not."""
        if token not in self.eos_ids:
            return ""
        return TOOL_CALLS if token == self._tool_call else STOP


def stray_eos_ids(eos_ids: Iterable[int], vocab_size: int) -> list[int]:
    """Return the end tokens a model with ``vocab_size`` ids can never produce."""
    return sorted(number for number in eos_ids if number >= vocab_size)


def tool_call_id(tokenizer: Any) -> int | None:
    """Return the id of the token that ends a call of a tool; None where a tokenizer has none."""
    table = getattr(tokenizer, "special_tokens", None)
    return table.get(TOOL_CALL_TOKEN) if isinstance(table, dict) else None
