#!/usr/bin/env python
"""Ask Hugging Face's GlmForCausalLM for reference values and write them to tests/golden/parity/.

Needs the extra ``parity`` (torch and transformers). The tests read what this writes and need neither.
Run from the repository: ``python scripts/make_goldens.py``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import Glm4Config, Glm4ForCausalLM, GlmConfig, GlmForCausalLM

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.support.golden_model import (  # noqa: E402
    CASES,
    TRAIN_CASE,
    GoldenCase,
    huggingface_weights,
    padded_batch,
    training_batches,
)

TARGET = ROOT / "tests" / "golden" / "parity"
ADAMW = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def build_oracle(case: GoldenCase) -> GlmForCausalLM | Glm4ForCausalLM:
    """Return the oracle with the case's weights, float32."""
    config_class, model_class = (
        (Glm4Config, Glm4ForCausalLM) if case.has_after_norms else (GlmConfig, GlmForCausalLM)
    )
    config = config_class(
        vocab_size=case.vocab,
        hidden_size=case.hidden,
        intermediate_size=case.ffn,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.groups,
        head_dim=case.head_dim,
        rms_norm_eps=case.eps,
        max_position_embeddings=2048,
        attention_bias=case.has_bias,
        pad_token_id=0,
        eos_token_id=None,
        bos_token_id=None,
        rope_parameters={
            "rope_type": "default",
            **(case.rope_scaling or {}),
            "rope_theta": case.rope_theta,
            "partial_rotary_factor": 0.5,
        },
        partial_rotary_factor=0.5,
        attn_implementation="eager",
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = model_class(config).float().eval()
    state = {name: torch.from_numpy(value) for name, value in huggingface_weights(case).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert not missing, missing
    return model


def forward_golden(case: GoldenCase) -> dict[str, np.ndarray]:
    """Logits of a left-padded batch and 64 greedy tokens of each row."""
    model = build_oracle(case)
    ids, mask, positions = (torch.from_numpy(a) for a in padded_batch(case))
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        greedy = model.generate(
            ids, attention_mask=mask, max_new_tokens=64, min_new_tokens=64, do_sample=False
        )
    return {"logits": logits.numpy(), "greedy": greedy[:, ids.shape[1] :].numpy().astype(np.int32)}


def training_golden(case: GoldenCase) -> dict[str, np.ndarray]:
    """Loss and every gradient of the first step; losses and parameters after ten AdamW steps."""
    model = build_oracle(case).train()
    decay = [p for n, p in model.named_parameters() if p.ndim > 1 and not n.endswith(".bias")]
    other = [p for n, p in model.named_parameters() if p.ndim == 1 or n.endswith(".bias")]
    optimizer = torch.optim.AdamW(
        [{"params": decay}, {"params": other, "weight_decay": 0.0}], **ADAMW
    )
    return train_steps(model, dict(model.named_parameters()), optimizer, training_batches(case, 10))


def train_steps(
    model: torch.nn.Module,
    trained: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Train; return the gradients of the first step, the losses of all, and what the last one left."""
    found: dict[str, np.ndarray] = {}
    losses = []
    for step, (ids, labels) in enumerate(batches):
        logits = model(input_ids=torch.from_numpy(ids)).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), torch.from_numpy(labels).flatten(), ignore_index=-100
        )
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            found |= {f"grad/{n}": p.grad.numpy().copy() for n, p in trained.items()}
        optimizer.step()
    found |= {f"after/{n}": p.detach().numpy().copy() for n, p in trained.items()}
    return found | {"losses": np.array(losses)}


def main() -> None:
    """Write one .npz per case and a note of the versions used."""
    TARGET.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        np.savez_compressed(TARGET / f"{case.name}.npz", **forward_golden(case))
        print(f"{case.name}: written")
    np.savez_compressed(TARGET / "training.npz", **training_golden(TRAIN_CASE))
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "oracle": "GlmForCausalLM",
        "adamw": {**ADAMW, "betas": list(ADAMW["betas"])},
    }
    (TARGET / "versions.json").write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
    print(f"training: written; {versions}")


if __name__ == "__main__":
    main()
