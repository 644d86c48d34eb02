"""What transformers on torch reaches, with peft for LoRA. Runs in the rival's environment; see run.sh."""

from __future__ import annotations

import argparse
import time

import torch
import transformers
from transformers import GlmForCausalLM, StoppingCriteria, StoppingCriteriaList

from benchmarks.measure import parse, prompt_ids, repeat, report
from benchmarks.presets import LORA_RANK, NEW, PREFILL, PROMPT, SIZES, TRAIN_LENGTH
from benchmarks.weights import directory

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class _Clock(StoppingCriteria):
    """Notes when each token was chosen; stops nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def load(arguments: argparse.Namespace) -> GlmForCausalLM:
    """Return the model on the shared weights."""
    folder = directory(arguments.models, arguments.config, arguments.dtype)
    return GlmForCausalLM.from_pretrained(folder, dtype=_DTYPES[arguments.dtype])


def ids_of(arguments: argparse.Namespace, batch: int, length: int) -> torch.Tensor:
    """Return the shared prompt ids, (batch, length)."""
    return torch.tensor(prompt_ids(SIZES[arguments.config].vocab, batch, length))


def decode(arguments: argparse.Namespace) -> None:
    """Time greedy tokens after the prompt, from the first one on; ``generate`` as a user calls it."""
    model = load(arguments).eval()
    ids = ids_of(arguments, arguments.batch, PROMPT)
    settings = {"do_sample": False, "attention_mask": torch.ones_like(ids)}
    if arguments.compiled:
        settings["cache_implementation"] = "static"
        model.forward = torch.compile(model.forward, dynamic=False)
    first: list[float] = []

    def work(new: int = NEW) -> float:
        clock, started = _Clock(), time.perf_counter()
        model.generate(
            ids,
            max_new_tokens=new,
            min_new_tokens=new,
            stopping_criteria=StoppingCriteriaList([clock]),
            **settings,
        )
        first.append(clock.times[0] - started)
        return clock.times[-1] - clock.times[0]

    with torch.inference_mode():
        # A static cache is compiled for its length, so the warm-up must have the measured one.
        work(NEW if arguments.compiled else 8)
        samples = repeat(work, arguments, warm=False)
    who = "transformers compiled" if arguments.compiled else "transformers"
    report(
        who,
        arguments,
        samples,
        arguments.batch * (NEW - 1),
        first_token_ms=round(min(first) * 1000, 1),
    )


def prefill(arguments: argparse.Namespace) -> None:
    """Time reading a prompt into the cache, logits for the last token only."""
    model = load(arguments).eval()
    ids = ids_of(arguments, arguments.batch, PREFILL)

    def work() -> None:
        model(ids, use_cache=True, logits_to_keep=1)

    with torch.inference_mode():
        samples = repeat(work, arguments)
    report("transformers", arguments, samples, arguments.batch * PREFILL)


def train(arguments: argparse.Namespace) -> None:
    """Time forward, backward, clipping and AdamW; with ``lora`` on peft's adapters alone."""
    model, who = load(arguments).train(), "transformers"
    model.config.use_cache = False
    if arguments.what == "lora":
        import peft

        targets = ["q_proj", "k_proj", "v_proj"]
        settings = peft.LoraConfig(
            r=LORA_RANK, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"
        )
        model, who = peft.get_peft_model(model, settings), "transformers + peft"
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.01)
    ids = ids_of(arguments, arguments.batch, TRAIN_LENGTH)

    def work() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    report(who, arguments, repeat(work, arguments), ids.numel())


def first_token(arguments: argparse.Namespace) -> None:
    """Load and produce one token; run.py times from the start of the process to this line."""
    model = load(arguments).eval()
    with torch.inference_mode():
        model.generate(ids_of(arguments, 1, PROMPT), max_new_tokens=1, do_sample=False)
    report("transformers", arguments, [])


def main() -> None:
    """Measure once."""
    arguments = parse(__doc__)
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    works = {
        "decode": decode,
        "prefill": prefill,
        "train": train,
        "lora": train,
        "first-token": first_token,
    }
    works[arguments.what](arguments)


if __name__ == "__main__":
    main()
