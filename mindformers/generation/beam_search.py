"""Beam search over whole prompts: what ``generate`` does with ``num_beams`` above 1."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mindformers.errors import GenerationError
from mindformers.generation.beam_job import BeamJob
from mindformers.generation.config import GenerationConfig
from mindformers.generation.engine import allowed_size
from mindformers.generation.engine_core import EngineCore
from mindformers.generation.handle import Handle
from mindformers.generation.output import GenerateOutput
from mindformers.generation.paged_step import PagedStep
from mindformers.generation.prompts import check_prompts
from mindformers.generation.request import Constraint, Request
from mindformers.generation.scheduler import EngineSettings


def search(
    step: PagedStep,
    prompts: Any,
    config: GenerationConfig,
    block_limit: int,
    *,
    logits_processors: Any = (),
    tokenizer: Any = None,
    constraint: Callable[[], Constraint] | None = None,
) -> GenerateOutput:
    """Find the likeliest answers to prompts.

    Args:
        step: The network; the search makes a cache of its own.
        prompts: One sequence of ids per row, without padding.
        config: How to search and when to end.
        block_limit: Blocks the cache may have.
        logits_processors: The user's rules; see ``LogitsProcessor``.
        tokenizer: When given, ids it has no token for are never produced.
        constraint: Opens what rules tokens out of an answer; None: nothing does.

    Returns:
        ``num_return_sequences`` answers to each prompt, the best first.

    Raises:
        GenerationError: If a prompt or a setting cannot be used, or the cache is too small.
    """
    rows = check_prompts(prompts, step.vocab_size, step.max_length)
    settings = EngineSettings(
        num_blocks=block_limit, max_running=max(config.num_beams, 64), prefix_cache=False
    )
    core = EngineCore(step, settings, tokenizer, allowed_size(config, tokenizer))
    jobs = [
        core.open_job(
            Request(row, config, constraint=constraint), Handle(lambda _: None), logits_processors
        )
        for row in rows
    ]
    for job in jobs:
        core.add(job)
    started = time.perf_counter()
    while core.run_once():
        pass
    seconds = time.perf_counter() - started
    found = []
    for job in jobs:
        assert isinstance(job, BeamJob)
        for _ in job.handle:  # raises what ended the search
            pass
        found += [(job.prompt, each) for each in job.found[: job.num_answers]]
    return GenerateOutput(
        sequences=[np.array([*prompt, *each.ids], np.int32) for prompt, each in found],
        finish_reasons=[each.finish_reason for _, each in found],
        num_prompt_tokens=[len(prompt) for prompt, _ in found],
        num_generated=[len(each.ids) for _, each in found],
        decode_seconds=seconds,
        sequences_scores=[each.score for _, each in found],
    )


def refuse_in_search(
    config: GenerationConfig, streamer: Any, use_cache: bool, assistant: Any
) -> None:
    """Refuse what a search cannot have.

    Raises:
        GenerationError: If one of it was asked for; names it.
    """
    refused = {
        "streamer": streamer is not None,
        "use_past: false": not use_cache,
        "assistant_model": assistant is not None,
        "output_scores": config.output_scores,
        "output_logits": config.output_logits,
    }
    for name, is_asked in refused.items():
        if is_asked:
            raise GenerationError(
                "a search with num_beams above 1 cannot have it",
                where=name,
                fix=f"leave {name} out",
            )
