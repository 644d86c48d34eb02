r"""Train a small vocabulary in GLM-4's rank-file format from JSON data sets.

The result is a ``tokenizer.model`` that ``ChatGLM4Tokenizer`` reads like the published one: ranks
0 to 255 are the single bytes, then one token per merge, in the order the merges were made.

    python examples/tiny_chat/train_rank_file.py --data examples/tiny_chat/alpaca_tiny.json \
        --vocab_size 1024 --output tokenizer.model
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import regex

from mindformers.checkpoint.atomic import write_text
from mindformers.dataset.formats import read_conversations
from mindformers.dataset.messages import Conversation
from mindformers.errors import ConfigError, DataError
from mindformers.guard import run_guarded
from mindformers.models.glm2.glm4_tokens import SPECIAL_TOKENS
from mindformers.tokenizer.bpe import SPLIT_PATTERN, BytePairEncoder
from mindformers.tokenizer.chat import chat_template, default_template
from mindformers.tokenizer.special_tokens import build_special_tokens

NUM_BYTES = 256


def read_texts(path: Path) -> list[str]:
    """Return the texts of a data set that a tokenizer will meet, in file order.

    Args:
        path: JSON or JSON Lines with alpaca rows (gives the user's text and the output) or with
            ``{"messages": [...]}`` (gives contents and the names of called tools; with ``tools``,
            the whole prompt, as GLM-4's template tells of them).

    Raises:
        DataError: If the file cannot be read, holds no rows, or one of its rows is wrong.
    """
    texts: list[str] = []
    for row in read_conversations(path, order="any"):
        if isinstance(row, DataError):
            raise row
        if row.tools:
            texts += prompt_texts(row)
            continue
        for message in row.messages:
            texts += [text for text in (message.metadata, message.content) if text]
    if not texts:
        raise DataError("the file holds no rows", where=str(path))
    return texts


def prompt_texts(row: Conversation) -> list[str]:
    """Return the texts between the control tokens of a conversation's prompt."""
    template = chat_template(default_template(), build_special_tokens(0, SPECIAL_TOKENS))
    messages = [message.as_dict() for message in row.messages]
    return [part.text for part in template.render(messages, row.tools) if not part.is_control]


def count_pieces(texts: Iterable[str]) -> Counter[bytes]:
    """Return how often each piece occurs when ``texts`` are split as GLM-4 splits them (UTF-8)."""
    split = regex.compile(SPLIT_PATTERN)
    pieces = Counter(piece for text in texts for piece in split.findall(text))
    return Counter({piece.encode("utf-8"): count for piece, count in pieces.items()})


class RankTrainer:
    """Grows a vocabulary by the pair of neighbours that occurs most often.

    After each merge every piece is split exactly as tiktoken splits it with the ranks so far, so
    the counts that choose the next merge are those of the finished tokenizer, not an estimate.

    Args:
        pieces: Piece bytes and how often each occurs.
    """

    def __init__(self, pieces: Mapping[bytes, int]) -> None:
        self.ranks = {bytes([value]): value for value in range(NUM_BYTES)}
        self._pieces = sorted(pieces)
        self._index = {piece: i for i, piece in enumerate(self._pieces)}
        self._counts = [pieces[piece] for piece in self._pieces]
        self._splits = [[bytes([value]) for value in piece] for piece in self._pieces]
        # Two tokens are one merge when they join to the same bytes, wherever the border lies:
        # a rank file keeps only the joined bytes.
        self._joins: Counter[bytes] = Counter()
        self._where: defaultdict[bytes, set[int]] = defaultdict(set)
        for i in range(len(self._pieces)):
            self._count_joins(i, 1)
        self._heap = [(-count, joined) for joined, count in self._joins.items()]
        heapq.heapify(self._heap)

    def _count_joins(self, i: int, sign: int) -> set[bytes]:
        split = self._splits[i]
        joins = {a + b for a, b in itertools.pairwise(split)}
        for a, b in itertools.pairwise(split):
            self._joins[a + b] += sign * self._counts[i]
        for joined in joins:
            self._where[joined].add(i) if sign > 0 else self._where[joined].discard(i)
        return joins

    def merge_next(self) -> bytes | None:
        """Add the most frequent join as the next rank; return its bytes, or None when none is left.

        Equal counts: the smallest bytes win, so the result depends on the data alone.
        """
        while self._heap:
            count, joined = heapq.heappop(self._heap)
            if self._joins[joined] == -count:  # else an entry from before the count changed
                self._add(joined)
                return joined
        return None

    def _add(self, token: bytes) -> None:
        self.ranks[token] = len(self.ranks)
        touched = set(self._where[token])
        if token in self._index:
            touched.add(self._index[token])
        changed: set[bytes] = set()
        for i in touched:
            changed |= self._count_joins(i, -1)
            self._splits[i] = self._resplit(i)
            changed |= self._count_joins(i, 1)
        for joined in changed:
            if self._joins[joined] > 0:
                heapq.heappush(self._heap, (-self._joins[joined], joined))

    def _resplit(self, i: int) -> list[bytes]:
        # tiktoken looks a whole piece up first, then merges the lowest rank, leftmost first.
        if self._pieces[i] in self.ranks:
            return [self._pieces[i]]
        split = self._splits[i]
        unknown = len(self.ranks)
        while True:
            ranks = [self.ranks.get(a + b, unknown) for a, b in itertools.pairwise(split)]
            best = min(ranks, default=unknown)
            if best == unknown:
                return split
            at = ranks.index(best)
            split = [*split[:at], split[at] + split[at + 1], *split[at + 2 :]]


def train_ranks(pieces: Mapping[bytes, int], vocab_size: int) -> list[bytes]:
    """Return token bytes indexed by rank: the 256 bytes, then the merges in order.

    Args:
        pieces: Piece bytes and how often each occurs (``count_pieces``).
        vocab_size: Ranks wanted, at least 256; fewer come back when no merge is left.

    Raises:
        ConfigError: If ``vocab_size`` is less than 256.
    """
    if vocab_size < NUM_BYTES:
        raise ConfigError(
            f"vocab_size is {vocab_size}",
            where="--vocab_size",
            allowed="256 (the single bytes) or more",
        )
    trainer = RankTrainer(pieces)
    while len(trainer.ranks) < vocab_size and trainer.merge_next() is not None:
        pass
    return list(trainer.ranks)


def _check_output(output: Path, data: Sequence[Path], overwrite: bool) -> None:
    if output.resolve() in {path.resolve() for path in data}:
        raise ConfigError(
            "the output would replace the data", where=str(output), fix="give another --output"
        )
    if output.exists() and not overwrite:
        raise ConfigError(
            "the output exists", where=str(output), fix="add --overwrite or give another --output"
        )


def _closing_table(tokens: list[bytes], texts: list[str], seconds: float) -> list[tuple[str, str]]:
    encoder = BytePairEncoder(tokens)
    num_bytes = sum(len(text.encode("utf-8")) for text in texts)
    num_tokens = sum(len(encoder.encode(text)) for text in texts)
    table = [
        ("ranks", f"{len(tokens)} ({NUM_BYTES} bytes, {len(tokens) - NUM_BYTES} merges)"),
        ("texts", f"{len(texts)} ({num_bytes} bytes)"),
        ("tokens", f"{num_tokens}"),
        ("bytes per token", f"{num_bytes / num_tokens:.2f}"),
        ("time", f"{seconds:.2f} s"),
    ]
    for text in (texts[0], texts[-1]):
        parts = [tokens[rank].decode("utf-8", "backslashreplace") for rank in encoder.encode(text)]
        table.append(("example", "|".join(parts[:40]).replace("\n", "\\n")))
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train a vocabulary in GLM-4's rank-file format.")
    parser.add_argument(
        "--data", required=True, nargs="+", type=Path, help="JSON files, alpaca or messages form"
    )
    parser.add_argument(
        "--vocab_size", type=int, default=1024, help="ranks to make, 256 or more (default 1024)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("tokenizer.model"), help="the rank file to write"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Train and write the rank file that the flags ask for, and print the closing table.

    Raises:
        MindFormersError: If a flag or the data is wrong, or the output cannot be written.
    """
    options = _parser().parse_args(argv)
    _check_output(options.output, options.data, options.overwrite)
    texts = [text for path in options.data for text in read_texts(path)]
    start = time.perf_counter()
    tokens = train_ranks(count_pieces(texts), options.vocab_size)
    table = _closing_table(tokens, texts, time.perf_counter() - start)
    write_text(options.output, BytePairEncoder(tokens).rank_file.decode("ascii"))
    if len(tokens) < options.vocab_size:
        print(f"No merge is left: the data gives {len(tokens)} ranks, not {options.vocab_size}.")
    for name, value in table:
        print(f"{name:<16} {value}")
    print(f"{'written':<16} {options.output}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's mistake becomes one line on stderr and exit code 2."""
    return run_guarded(run, argv)


if __name__ == "__main__":
    sys.exit(main())
