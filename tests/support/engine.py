"""A paged cache of token ids: what a step writes and reads can be looked at, and every mix-up shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mindformers.generation.config import GenerationConfig
from mindformers.generation.engine import generate
from mindformers.generation.engine_core import EngineCore
from mindformers.generation.handle import Handle
from mindformers.generation.paged_step import Piece, flatten, prefix_slots
from mindformers.generation.request import Chunk, Request
from mindformers.generation.scheduler import EngineSettings
from tests.support.generation import FakeRunner

NOTHING = -9  # in a slot nobody wrote
PREFIX = -5  # what a trained prefix leaves in a slot


class FakeStep:
    """A network whose cache holds ids; its logits are a function of the ids that a sequence's blocks hold."""

    block_bytes = 0

    def __init__(
        self,
        logits: Callable[[Sequence[int]], np.ndarray],
        vocab_size: int = 10,
        *,
        max_length: int = 64,
        block_size: int = 4,
        prefix_length: int = 0,
        is_whole: bool = False,
    ) -> None:
        self.logits, self.vocab_size, self.max_length = logits, vocab_size, max_length
        self.hidden_size = len(hidden_state([0]))
        self.block_size, self.prefix_length, self.is_whole = block_size, prefix_length, is_whole
        self.steps: list[list[Piece]] = []
        self.num_copied = 0

    def allocate(self, num_blocks: int) -> None:
        self.cache = np.full(num_blocks * self.block_size, NOTHING)

    def write_prefix(self, tables: np.ndarray) -> None:
        self.cache[prefix_slots(tables, self.block_size, self.prefix_length)] = PREFIX

    def copy_blocks(self, copies: Mapping[int, int]) -> None:
        blocks = self.cache.reshape(-1, self.block_size)
        blocks[list(copies)] = blocks[list(copies.values())]
        self.num_copied += len(copies)

    def run(self, pieces: Sequence[Piece]) -> list[np.ndarray]:
        self.steps.append(list(pieces))
        flat = flatten(pieces, self.block_size, self.prefix_length)
        assert len(set(flat.slots)) == len(flat.slots)
        assert (flat.slots >= self.block_size).all()
        self.cache[flat.slots] = flat.ids
        found = []
        for number, piece in enumerate(pieces):
            slots = (
                flat.tables[number][:, None] * self.block_size + np.arange(self.block_size)
            ).ravel()
            held = self.cache[slots[: flat.lengths[number]]]
            assert (held[: self.prefix_length] == PREFIX).all()
            ids = held[self.prefix_length :]
            assert NOTHING not in ids
            assert ids[piece.start : piece.start + len(piece.ids)].tolist() == list(piece.ids)
            give, width = self.logits, self.vocab_size
            if piece.gives_hidden:
                give, width = hidden_state, self.hidden_size
            rows = [give(ids[: piece.start + offset + 1].tolist()) for offset in piece.picked]
            found.append(np.array(rows, np.float32).reshape(-1, width))
        return found


def hidden_state(ids: Sequence[int]) -> np.ndarray:
    """Return a state of the last token that depends on all before it and on their order."""
    mark = float(np.dot(np.arange(1, len(ids) + 1), np.asarray(ids) + 1))
    return np.sin(mark * np.arange(1, 6))


def open_core(
    step: Any, num_blocks: int = 32, tokenizer: Any = None, **settings: Any
) -> EngineCore:
    return EngineCore(step, EngineSettings(num_blocks=num_blocks, **settings), tokenizer)


def submit(
    core: EngineCore, prompt: Sequence[int], config: GenerationConfig, **options: Any
) -> Handle:
    handle = Handle(lambda each: core.stop(each, "cancelled"))
    core.add(core.open_job(Request(prompt, config, **options), handle))
    return handle


def run_all(core: EngineCore, most: int = 10_000) -> None:
    for _ in range(most):
        if not core.run_once():
            return
    raise AssertionError(f"{core.stats()} after {most} steps")


def answers(handle: Handle) -> dict[int, list[int]]:
    """Return the ids of each answer; the request has ended."""
    return {index: [t for c in own for t in c.tokens] for index, own in _by_index(handle).items()}


def chunks(handle: Handle) -> dict[int, Chunk]:
    """Return each answer as one chunk; the request has ended."""
    return {
        index: Chunk(
            index,
            tuple(t for c in own for t in c.tokens),
            "".join(c.text for c in own),
            own[-1].finish_reason,
            tuple(p for c in own for p in c.logprobs),
        )
        for index, own in _by_index(handle).items()
    }


def listened(handle: Handle) -> list[Chunk]:
    """Return a list to which every chunk is added as it comes."""
    heard: list[Chunk] = []
    handle.listen(lambda item: heard.append(item) if isinstance(item, Chunk) else None)
    return heard


def _by_index(handle: Handle) -> dict[int, list[Chunk]]:
    found: dict[int, list[Chunk]] = {}
    for chunk in handle:
        found.setdefault(chunk.index, []).append(chunk)
    return dict(sorted(found.items()))


def alone(
    step: FakeStep,
    prompt: Sequence[int],
    config: GenerationConfig,
    seed: int | None = None,
    count: int = 1,
) -> list[list[int]]:
    """Return what ``generate`` answers to a prompt by itself, ``count`` times with the same seed."""
    runner = FakeRunner(step.logits, step.vocab_size, step.max_length)
    output = generate(runner, [list(prompt)] * count, config, seed=seed)
    return [row[len(prompt) :].tolist() for row in output.sequences]


def is_empty(core: EngineCore) -> bool:
    """Whether every block is free and nothing runs or waits."""
    stats = core.stats()
    return (stats.running, stats.waiting, stats.free_blocks) == (0, 0, stats.blocks)
