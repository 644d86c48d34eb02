"""The small GLM networks of the parity goldens: settings and weights, made from a seed alone.

Shared by the script that asks the oracle and by the tests that compare, so weights need no file.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class GoldenCase:
    """One network of the oracle."""

    name: str
    groups: int = 2
    rope_theta: float = 10000.0
    heads: int = 8
    head_dim: int = 8
    hidden: int = 32
    ffn: int = 48
    layers: int = 2
    vocab: int = 96
    first_position: int = 0
    eps: float = 1.5625e-07
    has_bias: bool = True
    has_after_norms: bool = False  # Glm4ForCausalLM instead of GlmForCausalLM
    yarn: tuple[float, int] | None = None  # factor and trained length

    @property
    def rope_scaling(self) -> dict[str, Any] | None:
        """YaRN as a config.json has it, or None."""
        if self.yarn is None:
            return None
        keys = ("factor", "original_max_position_embeddings")
        return {"rope_type": "yarn", **dict(zip(keys, self.yarn, strict=True))}


CASES = (
    GoldenCase("groups1", groups=1),
    GoldenCase("groups2", groups=2),
    GoldenCase("groups4", groups=4, rope_theta=5e6),
    GoldenCase("groups8", groups=8, rope_theta=1e8, first_position=900),
    GoldenCase(
        "head128", groups=2, heads=4, head_dim=128, layers=1, rope_theta=5e6, first_position=700
    ),
)
TRAIN_CASE = CASES[1]
# GLM-4-0414: the 9B models have biases, the 32B ones have none; eps is that of their config.json.
CASES_0414 = (
    GoldenCase("0414_groups1", groups=1, eps=1e-05, has_after_norms=True),
    GoldenCase("0414_groups2", groups=2, eps=1e-05, has_after_norms=True),
    GoldenCase(
        "0414_groups4",
        groups=4,
        eps=1e-05,
        has_after_norms=True,
        has_bias=False,
        first_position=900,
    ),
    GoldenCase("0414_groups8", groups=8, eps=1e-05, has_after_norms=True, has_bias=False),
    GoldenCase(
        "0414_head128",
        groups=2,
        heads=6,
        head_dim=128,
        layers=1,
        eps=1e-05,
        has_after_norms=True,
        has_bias=False,
        first_position=700,
    ),
    GoldenCase(
        "0414_yarn",
        groups=2,
        heads=4,
        head_dim=32,
        eps=1e-05,
        has_after_norms=True,
        yarn=(4.0, 256),
        first_position=900,
    ),
)
TRAIN_CASES_0414 = (CASES_0414[1], CASES_0414[2])


AFTER_NORMS = ("post_self_attn_layernorm", "post_mlp_layernorm")


def huggingface_weights(case: GoldenCase) -> dict[str, np.ndarray]:
    """Return float32 weights under Hugging Face names; each tensor is seeded by its name."""
    q, kv = case.heads * case.head_dim, case.groups * case.head_dim
    shapes = {
        "model.embed_tokens.weight": (case.vocab, case.hidden),
        "model.norm.weight": (case.hidden,),
        "lm_head.weight": (case.vocab, case.hidden),
    }
    for i in range(case.layers):
        p = f"model.layers.{i}."
        shapes |= {
            p + "input_layernorm.weight": (case.hidden,),
            p + "post_attention_layernorm.weight": (case.hidden,),
            p + "self_attn.q_proj.weight": (q, case.hidden),
            p + "self_attn.q_proj.bias": (q,),
            p + "self_attn.k_proj.weight": (kv, case.hidden),
            p + "self_attn.k_proj.bias": (kv,),
            p + "self_attn.v_proj.weight": (kv, case.hidden),
            p + "self_attn.v_proj.bias": (kv,),
            p + "self_attn.o_proj.weight": (case.hidden, q),
            p + "mlp.gate_up_proj.weight": (2 * case.ffn, case.hidden),
            p + "mlp.down_proj.weight": (case.hidden, case.ffn),
        }
        if case.has_after_norms:
            shapes |= {p + f"{norm}.weight": (case.hidden,) for norm in AFTER_NORMS}
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("bias") and not case.has_bias:
            continue
        rng = np.random.default_rng(zlib.crc32(f"{case.name}/{name}".encode()))
        value = rng.standard_normal(shape)
        if name.endswith("norm.weight"):
            value = 1 + 0.1 * value
        elif name.endswith("bias"):
            value = 0.2 * value
        else:
            value = value * 1.5 / np.sqrt(shape[-1])
        weights[name] = value.astype(np.float32)
    return weights


def our_weights(weights: dict[str, np.ndarray], layers: int) -> dict[str, np.ndarray]:
    """Return the same tensors under this library's names, query, key and value in one."""
    ours = {
        "transformer.embedding.embedding_weight": weights["model.embed_tokens.weight"],
        "transformer.encoder.final_layernorm.weight": weights["model.norm.weight"],
        "transformer.output_layer.weight": weights["lm_head.weight"],
    }
    for i in range(layers):
        hf, p = f"model.layers.{i}.", f"transformer.encoder.layers.{i}."
        has_bias = hf + "self_attn.q_proj.bias" in weights
        for kind in ("weight", "bias") if has_bias else ("weight",):
            ours[p + f"self_attention.query_key_value.{kind}"] = np.concatenate(
                [weights[hf + f"self_attn.{part}_proj.{kind}"] for part in "qkv"]
            )
        ours[p + "self_attention.dense.weight"] = weights[hf + "self_attn.o_proj.weight"]
        ours[p + "mlp.dense_h_to_4h.weight"] = weights[hf + "mlp.gate_up_proj.weight"]
        ours[p + "mlp.dense_4h_to_h.weight"] = weights[hf + "mlp.down_proj.weight"]
        for norm in ("input_layernorm", "post_attention_layernorm", *AFTER_NORMS):
            if hf + f"{norm}.weight" in weights:
                ours[p + f"{norm}.weight"] = weights[hf + f"{norm}.weight"]
    return ours


def padded_batch(case: GoldenCase) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids, attention mask (1 = real) and positions, (3, 24) int64; rows of 24, 15 and 6 tokens."""
    rng = np.random.default_rng(7)
    ids = rng.integers(1, case.vocab, (3, 24))
    mask = np.ones_like(ids)
    mask[1, :9] = mask[2, :18] = 0
    ids[mask == 0] = 0
    positions = np.maximum(np.cumsum(mask, 1) - 1, 0) + case.first_position
    return ids, mask, positions


def training_batches(case: GoldenCase, steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ``steps`` batches of ids and shifted labels, (2, 20) int64, about a third of the labels -100."""
    rng = np.random.default_rng(11)
    batches = []
    for _ in range(steps):
        ids = rng.integers(1, case.vocab, (2, 20))
        labels = rng.integers(1, case.vocab, (2, 20))
        labels[rng.random((2, 20)) < 0.35] = -100
        batches.append((ids, labels))
    return batches
