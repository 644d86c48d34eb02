"""Compare our model in lm-evaluation-harness with the harness's own ``hf`` model on the same weights.

Needs torch, transformers and lm_eval beside this package, and a model directory of Hugging Face's native form:

    python scripts/compare_lm_harness.py output/quickstart/huggingface

Prints the largest difference of a log likelihood, and whether the answers are the same; exit code 1 if not.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from mindformers.models.auto import AutoTokenizer
from mindformers.tasks.lm_harness_model import MindFormersLM
from mindformers.tokenizer.bpe import SPLIT_PATTERN

LENGTH, LARGEST = 64, 1e-3
PAIRS = [
    ("What is the capital of France?", " The capital of France is Paris."),
    ("Hello ", "world"), ("", "Hello! How can I help you?"), ("你好", "！你好！"),
    ("one two three " * 40, " four"),
]  # fmt: skip
TEXTS = [("The capital of France is Paris. " * 12,), ("你好！有什么可以帮你的吗？",)]
PROMPTS = [
    ("What is the capital of France?", {"until": ["."], "max_gen_toks": 12}),
    ("Hello!", {"until": ["\n"], "max_gen_toks": 8}),
    ("one two " * 60, {"until": [], "max_gen_toks": 8}),
]


def fast_tokenizer(folder: str) -> PreTrainedTokenizerFast:
    """Return transformers' form of a model's vocabulary."""
    ours = AutoTokenizer.from_pretrained(folder)
    names = sorted(ours.special_tokens, key=ours.special_tokens.__getitem__)
    built = TikTokenConverter(
        f"{folder}/tokenizer.model", pattern=SPLIT_PATTERN, extra_special_tokens=names
    ).converted()
    prefix = [("[gMASK]", ours.special_tokens["[gMASK]"]), ("<sop>", ours.special_tokens["<sop>"])]
    built.post_processor = TemplateProcessing(single="[gMASK] <sop> $A", special_tokens=prefix)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=built, eos_token=end, pad_token=end, padding_side="left"
    )


def asked(requests: list[Any]) -> list[Any]:
    """Return requests as the harness makes them."""
    return [SimpleNamespace(args=each, task_name="", doc_id=0, repeats=1) for each in requests]


def main(folder: str) -> int:
    """Compare, print, and return the exit code."""
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = HFLM(network, tokenizer=fast_tokenizer(folder), batch_size=2, device="cpu", max_length=LENGTH)  # fmt: skip
    ours = MindFormersLM(folder, batch_size=2, max_length=LENGTH)
    pairs = [model.loglikelihood(asked(PAIRS), disable_tqdm=True) for model in (theirs, ours)]
    rolling = [
        model.loglikelihood_rolling(asked(TEXTS), disable_tqdm=True) for model in (theirs, ours)
    ]
    answers = [model.generate_until(asked(PROMPTS), disable_tqdm=True) for model in (theirs, ours)]
    differences = [abs(a[0] - b[0]) for a, b in zip(*pairs, strict=True)]
    differences += [abs(a - b) for a, b in zip(*rolling, strict=True)]
    is_same = answers[0] == answers[1] and [a[1] for a in pairs[0]] == [b[1] for b in pairs[1]]
    print(f"largest difference of a log likelihood {max(differences):.1e}")
    print(f"answers are the same: {is_same}")
    return int(not is_same or max(differences) > LARGEST)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
