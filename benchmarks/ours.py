"""What this package reaches, through the calls a user makes."""

from __future__ import annotations

import argparse
import math
from typing import Any

from benchmarks.measure import (
    growing,
    parse,
    prompt_ids,
    repeat,
    report,
    report_growth,
    timed,
)
from benchmarks.presets import GROWTH_NEW, LORA_RANK, NEW, PREFILL, PROMPT, SIZES, TRAIN_LENGTH
from benchmarks.weights import directory

WHO = "mindformers"
_BLOCK = 16  # tokens of a cache block, the configuration's default
_PYNATIVE_MODE = 1  # keeps half the activations that graph mode keeps


def opened(arguments: argparse.Namespace, **overrides: Any) -> Any:
    """Return the model on the shared weights as ``pipeline``, the predict task and the chat open it on a CPU."""
    from mindformers.models.auto import open_in_files

    if arguments.dtype in ("int8", "int4"):
        # The head like every other matrix, as in the rival's files.
        overrides |= {"quantization": arguments.dtype, "quantization_head": arguments.dtype}
    folder = directory(arguments.models, arguments.config, arguments.dtype)
    return open_in_files(folder, **overrides)


def generate(network: Any, prompts: list[list[int]], new: int) -> Any:
    """Return the greedy answers with their times."""
    return network.generate(
        prompts, max_new_tokens=new, do_sample=False, return_dict_in_generate=True, eos_token_id=[]
    )


def decode(arguments: argparse.Namespace) -> None:
    """Time greedy tokens after the prompt, from the first one on."""
    network = opened(arguments)
    prompts = prompt_ids(SIZES[arguments.config].vocab, arguments.batch, PROMPT)
    first: list[float] = []

    def work() -> float:
        found = generate(network, prompts, NEW)
        first.append(found.prefill_seconds)
        return found.decode_seconds

    generate(network, prompts, 8)
    samples = repeat(work, arguments, warm=False)
    tokens = arguments.batch * (NEW - 1)
    report(WHO, arguments, samples, tokens, first_token_ms=round(min(first) * 1000, 1))


def prefill(arguments: argparse.Namespace) -> None:
    """Time reading a prompt into the cache, logits for the last token only."""
    network = opened(arguments)
    prompts = prompt_ids(SIZES[arguments.config].vocab, arguments.batch, PREFILL)
    samples = repeat(lambda: generate(network, prompts, 1).prefill_seconds, arguments)
    report(WHO, arguments, samples, arguments.batch * PREFILL)


def growth(arguments: argparse.Namespace) -> None:
    """Time prompts of growing length, and tokens after them; one pair of lines each."""
    contexts = growing(arguments.longest)
    blocks = math.ceil((contexts[-1] + GROWTH_NEW) / _BLOCK) + 1
    network = opened(arguments, num_blocks=blocks)
    vocab = SIZES[arguments.config].vocab
    generate(network, prompt_ids(vocab, 1, PROMPT), 4)
    for context in contexts:
        prompts = prompt_ids(vocab, 1, context)
        decode_seconds: list[float] = []

        def work(prompts: Any = prompts, decode_seconds: Any = decode_seconds) -> float:
            found = generate(network, prompts, GROWTH_NEW + 1)
            decode_seconds.append(found.decode_seconds)
            return found.prefill_seconds

        reading = timed(work)
        writing = type(reading)(decode_seconds[0], reading.load)
        report_growth(WHO, arguments, context, reading, writing)


def train(arguments: argparse.Namespace) -> None:
    """Time forward, backward, clipping and AdamW; with ``lora`` on the adapters alone."""
    import numpy as np

    from mindformers import AdamW, AutoModel, MFTrainOneStepCell
    from mindformers.parallel.runtime import start_runtime
    from mindformers.training.param_groups import get_optimizer_grouped_parameters

    overrides: dict[str, Any] = {}
    if arguments.what == "lora":
        overrides["pet_config"] = {
            "pet_type": "lora",
            "lora_rank": LORA_RANK,
            "lora_alpha": 16,
            "lora_dropout": 0.0,  # peft's default
            "target_modules": ".*query_key_value",
        }
    start_runtime(mode=_PYNATIVE_MODE, seed=1)
    folder = directory(arguments.models, arguments.config, arguments.dtype)
    network = AutoModel.from_pretrained(folder, seq_length=TRAIN_LENGTH, **overrides)
    network.set_train(True)
    groups = get_optimizer_grouped_parameters(network, 0.01)
    step = MFTrainOneStepCell(network, AdamW(groups), use_clip_grad=True)
    vocab = SIZES[arguments.config].vocab
    ids = np.array(prompt_ids(vocab, arguments.batch, TRAIN_LENGTH), np.int32)
    rows = {"input_ids": ids, "labels": ids}
    first = timed(lambda: step([rows], 1e-5) and None)
    samples = repeat(lambda: step([rows], 1e-5) and None, arguments, warm=False)
    report(WHO, arguments, samples, ids.size, first_step_s=round(first.seconds, 2))


def first_token(arguments: argparse.Namespace) -> None:
    """Load and produce one token; run.py times from the start of the process to this line."""
    generate(opened(arguments), prompt_ids(SIZES[arguments.config].vocab, 1, PROMPT), 1)
    report(WHO, arguments, [])


def main() -> None:
    """Measure once."""
    arguments = parse(__doc__)
    works = {
        "decode": decode,
        "prefill": prefill,
        "growth": growth,
        "train": train,
        "lora": train,
        "first-token": first_token,
    }
    works[arguments.what](arguments)


if __name__ == "__main__":
    main()
