"""What is asked of the serving engine and what it gives back, whoever asks: terminal, server or a script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mindformers.generation.array import Array
from mindformers.generation.config import GenerationConfig

POOLINGS = ("mean", "last")


class Constraint(Protocol):
    """Which tokens may come next in one answer; a state of its own for every sequence."""

    def allowed(self) -> Array:
        """Return the ids that may come next, (V,) bool; at least one is True."""

    def accept(self, token: int) -> None:
        """Take the token that was chosen."""

    def copy(self) -> Constraint:
        """Return the same state once more; a beam that splits needs it."""


@dataclass(frozen=True)
class Request:
    """One prompt and what is wanted of its answers.

    Args:
        prompt: Ids, 1 or more, without padding.
        config: How to choose and when to end; ``num_beams`` above 1 searches instead of drawing.
        seed: 0 to 2**64 - 1; None: one of the engine's. Answer i draws from (seed, i) alone.
        num_answers: Answers wanted of this prompt (OpenAI's ``n``); its keys and values are shared.
        priority: Larger ones are admitted first; equals in order of arrival.
        timeout: Seconds from ``submit`` to the end, waiting included; None: no limit.
        logprobs: Most likely tokens told with each token; None: no log probabilities at all.
        constraint: Opens what rules tokens out, once for each answer; None: nothing does.
        shown: Control tokens whose text stands in the answer's all the same: what reads tool calls needs
            ``<|assistant|>``, which parts two of them.
    """

    prompt: Sequence[int]
    config: GenerationConfig
    seed: int | None = None
    num_answers: int = 1
    priority: int = 0
    timeout: float | None = None
    logprobs: int | None = None
    constraint: Callable[[], Constraint] | None = None
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class EmbeddingRequest:
    """Prompts whose embeddings are wanted: the hidden states of their tokens, pooled, of length 1.

    Args:
        prompts: Ids of each, 1 or more, without padding, as many as the engine's ``max_length``.
        pooling: ``mean`` of all tokens, or the ``last`` token alone.
        priority: As ``Request``'s.
        timeout: As ``Request``'s, for all prompts together.
    """

    prompts: Sequence[Sequence[int]]
    pooling: str = POOLINGS[0]
    priority: int = 0
    timeout: float | None = None

    @property
    def num_answers(self) -> int:
        """Chunks it gets: one for each prompt."""
        return len(self.prompts)


@dataclass(frozen=True)
class TokenLogprob:
    """The log probability of a chosen token and of the likeliest ones in its place, by the model's own logits."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Chunk:
    """What is new in one answer of a request.

    Args:
        index: Which answer, or which prompt of several, from 0.
        tokens: New ids; the end token is the last.
        text: New text: whole characters, nothing that may be the beginning of a stop string, no
            control tokens but the request's ``shown``. All chunks joined are the answer.
        finish_reason: Empty while the answer goes on; then ``stop``, ``length``, ``tool_calls``,
            ``stop_string``, ``cancelled`` or ``timeout``.
        logprobs: One for each of ``tokens`` when asked for.
        embedding: Of a prompt whose embedding was asked for, (H,) float32; its one chunk has no tokens.
    """

    index: int
    tokens: tuple[int, ...]
    text: str
    finish_reason: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    embedding: Array | None = field(default=None, compare=False)


@dataclass
class Usage:
    """Tokens of a request so far."""

    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, found in the prefix cache
    completion_tokens: int = 0
    drafted_tokens: int = 0  # guesses that were read
    accepted_tokens: int = 0  # of them right


@dataclass(frozen=True)
class EngineStats:
    """The engine at one moment; counters run from its start."""

    running: int = 0  # answers
    waiting: int = 0  # requests
    blocks: int = 0  # of the cache, all
    free_blocks: int = 0
    cached_blocks: int = 0  # free ones whose content the prefix cache can still give
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0
    finished: dict[str, int] = field(default_factory=dict)  # requests by finish reason


class RequestHandle(Protocol):
    """A request on its way; safe to use from any thread."""

    usage: Usage

    def __iter__(self) -> Iterator[Chunk]:
        """Give chunks as they come, until all answers have ended; raises the request's own error."""

    def listen(self, callback: Callable[[Chunk | BaseException | None], None]) -> None:
        """Instead of iterating: call back from the engine's thread, once with None at the end."""

    def cancel(self) -> None:
        """Stop: blocks are free within a step, and the answers end as ``cancelled``."""


class Engine(Protocol):
    """Answers many requests at once; each as if it were alone."""

    vocab_size: int
    hidden_size: int  # numbers of an embedding
    max_length: int  # tokens of prompt and answer

    def submit(self, request: Request | EmbeddingRequest) -> RequestHandle:
        """Take a request.

        Raises:
            GenerationError: If it can never be answered (too long, a setting out of range).
            EngineBusyError: If the queue is full; ``retry_after`` says when to come again.
        """

    def stats(self) -> EngineStats:
        """Return the counters."""

    def drain(self, timeout: float) -> bool:
        """Take nothing more and wait for what runs; return whether all of it ended in time."""

    def close(self) -> None:
        """Cancel what runs and end the engine's thread."""
