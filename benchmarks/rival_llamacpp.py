"""What llama.cpp reaches, through its C interface. Runs in the rival's environment; see run.sh."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

import llama_cpp as api
import numpy as np

from benchmarks.gguf_files import gguf_path, silence
from benchmarks.measure import growing, parse, prompt_ids, repeat, report, report_growth, timed
from benchmarks.presets import GROWTH_NEW, NEW, PREFILL, PROMPT, SIZES

WHO = "llama.cpp"


class Session:
    """A model, a context and one batch buffer.

    Args:
        arguments: Of ``parse``.
        tokens: Positions each row must hold.
        rows: Rows decoded together.
        at_once: Tokens one call takes at most.
    """

    def __init__(self, arguments: argparse.Namespace, tokens: int, rows: int, at_once: int) -> None:
        path = gguf_path(arguments.models, arguments.config, arguments.dtype)
        self.model = api.llama_model_load_from_file(
            os.fsencode(path), api.llama_model_default_params()
        )
        settings = api.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max, settings.n_batch = tokens * rows, rows, at_once
        settings.n_threads = settings.n_threads_batch = arguments.threads
        self.context = api.llama_init_from_model(self.model, settings)
        self.batch = api.llama_batch_init(at_once, 0, 1)
        self.vocab = SIZES[arguments.config].vocab

    def clear(self) -> None:
        """Forget all rows."""
        api.llama_memory_clear(api.llama_get_memory(self.context), True)

    def step(self, rows: Sequence[Sequence[int]], start: int) -> list[int]:
        """Read more tokens of every row, from position ``start`` on; return the next one of each, greedy.

        Raises:
            RuntimeError: If llama.cpp refuses the batch.
        """
        batch, last = self.batch, []
        batch.n_tokens = 0
        for row, tokens in enumerate(rows):
            for i, token in enumerate(tokens):
                at = batch.n_tokens
                batch.token[at], batch.pos[at] = token, start + i
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
                batch.logits[at] = i == len(tokens) - 1
                batch.n_tokens = at + 1
            last.append(batch.n_tokens - 1)
        code = api.llama_decode(self.context, batch)
        if code:
            raise RuntimeError(f"llama_decode gave {code}")
        return [self.choose(at) for at in last]

    def choose(self, at: int) -> int:
        """Return the likeliest token after the batch's token ``at``."""
        logits = api.llama_get_logits_ith(self.context, at)
        return int(np.ctypeslib.as_array(logits, (self.vocab,)).argmax())


def decode(arguments: argparse.Namespace) -> None:
    """Time greedy tokens after the prompt, from the first one on."""
    rows = arguments.batch
    session = Session(arguments, PROMPT + NEW, rows, max(512, rows * PROMPT))
    prompts = prompt_ids(session.vocab, rows, PROMPT)
    first: list[float] = []

    def work(new: int = NEW) -> float:
        session.clear()
        began = time.perf_counter()
        chosen = session.step(prompts, 0)
        started = time.perf_counter()
        for position in range(PROMPT, PROMPT + new - 1):
            chosen = session.step([[token] for token in chosen], position)
        first.append(started - began)
        return time.perf_counter() - started

    work(8)
    samples = repeat(work, arguments, warm=False)
    report(WHO, arguments, samples, rows * (NEW - 1), first_token_ms=round(min(first) * 1000, 1))


def prefill(arguments: argparse.Namespace) -> None:
    """Time reading a prompt into the cache, logits for the last token only."""
    rows = arguments.batch
    session = Session(arguments, PREFILL, rows, rows * PREFILL)
    prompts = prompt_ids(session.vocab, rows, PREFILL)

    def work() -> float:
        session.clear()
        started = time.perf_counter()
        session.step(prompts, 0)
        return time.perf_counter() - started

    report(WHO, arguments, repeat(work, arguments), rows * PREFILL)


def growth(arguments: argparse.Namespace) -> None:
    """Time prompts of growing length, and tokens after them; one line each."""
    contexts = growing(arguments.longest)
    session = Session(arguments, contexts[-1] + GROWTH_NEW, 1, contexts[-1])
    session.step([[5] * PROMPT], 0)
    for context in contexts:
        prompts = prompt_ids(session.vocab, 1, context)
        session.clear()
        reading = timed(lambda prompts=prompts: session.step(prompts, 0) and None)

        def work(context: int = context) -> None:
            chosen = [5]
            for position in range(context, context + GROWTH_NEW):
                chosen = session.step([chosen], position)

        report_growth(WHO, arguments, context, reading, timed(work))


def first_token(arguments: argparse.Namespace) -> None:
    """Load and produce one token; run.py times from the start of the process to this line."""
    session = Session(arguments, PROMPT + 1, 1, 512)
    session.step(prompt_ids(session.vocab, 1, PROMPT), 0)
    report(WHO, arguments, [])


def main() -> None:
    """Measure once."""
    arguments = parse(__doc__)
    silence()
    api.llama_backend_init()
    works = {"decode": decode, "prefill": prefill, "growth": growth, "first-token": first_token}
    works[arguments.what](arguments)


if __name__ == "__main__":
    main()
