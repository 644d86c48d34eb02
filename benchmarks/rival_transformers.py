"""What transformers reaches on the sizes of bench_model.py; started by it with a Python that has torch."""

from __future__ import annotations

import argparse
import time

import torch
from presets import EPS, PRESETS, median, report
from transformers import GlmConfig, GlmForCausalLM


def build(preset: str) -> GlmForCausalLM:
    """Return GlmForCausalLM of a preset with random weights, float32."""
    size = PRESETS[preset]
    torch.manual_seed(0)
    return GlmForCausalLM(
        GlmConfig(
            vocab_size=size["vocab"],
            hidden_size=size["hidden"],
            intermediate_size=size["ffn"],
            num_hidden_layers=size["layers"],
            num_attention_heads=size["heads"],
            num_key_value_heads=size["groups"],
            head_dim=size["hidden"] // size["heads"],
            rms_norm_eps=EPS,
            attention_bias=True,
            pad_token_id=0,
            eos_token_id=None,
            bos_token_id=None,
            tie_word_embeddings=False,
        )
    ).float()


def decode(preset: str, batch: int) -> None:
    """Time 128 greedy tokens after a 64-token prompt, the prompt's pass left out."""
    model = build(preset).eval()
    ids = torch.arange(1, 65).repeat(batch, 1)
    with torch.no_grad():
        model.generate(ids, max_new_tokens=8, min_new_tokens=8, do_sample=False)
        started = time.perf_counter()
        model.generate(ids, max_new_tokens=1, do_sample=False)
        first = time.perf_counter() - started
        started = time.perf_counter()
        model.generate(ids, max_new_tokens=128, min_new_tokens=128, do_sample=False)
        seconds = time.perf_counter() - started - first
    report(
        who="transformers",
        what="decode",
        preset=preset,
        batch=batch,
        tokens_per_second=round(127 * batch / seconds, 2),
        first_token_ms=round(first * 1000, 1),
    )


def train(preset: str, batch: int) -> None:
    """Time AdamW steps on batches of 512 tokens."""
    model = build(preset).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(1, PRESETS[preset]["vocab"], (batch, 512))
    speeds = []
    for _ in range(5):
        started = time.perf_counter()
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        speeds.append(ids.numel() / (time.perf_counter() - started))
    report(
        who="transformers",
        what="train",
        preset=preset,
        batch=batch,
        tokens_per_second=median(speeds[1:]),
    )


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--what", choices=("decode", "train"), required=True)
    parser.add_argument("--batch", type=int, required=True)
    arguments = parser.parse_args()
    (decode if arguments.what == "decode" else train)(arguments.preset, arguments.batch)


if __name__ == "__main__":
    main()
