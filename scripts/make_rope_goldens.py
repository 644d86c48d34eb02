#!/usr/bin/env python
"""Ask Hugging Face's library how GLM's rotary embedding turns, with and without YaRN, at the published sizes.

Writes tests/golden/parity/rope.json: per model the turn of each pair of channels from one position to the next
and what multiplies cos and sin, both float32 as that library has them. Needs the extra ``parity``; the test
reads what this writes and needs nothing. Run from the repository: ``python scripts/make_rope_goldens.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

import transformers
from transformers import Glm4Config, GlmConfig
from transformers.models.glm.modeling_glm import GlmRotaryEmbedding
from transformers.models.glm4.modeling_glm4 import Glm4RotaryEmbedding

TARGET = Path(__file__).resolve().parents[1] / "tests" / "golden" / "parity" / "rope.json"
_YARN = {"rope_type": "yarn", "original_max_position_embeddings": 32768}
# Name: class of the settings, rotary base, positions, scaling.
MODELS = {
    "glm-4-9b": (GlmConfig, 1e4, 8192, {}),
    "glm-4-9b-chat": (GlmConfig, 5e6, 131072, {}),
    "glm-4-9b-chat-1m": (GlmConfig, 1e8, 1048576, {}),
    "GLM-4-9B-0414": (Glm4Config, 1e4, 32768, {}),
    "GLM-4-9B-0414, 4 times": (Glm4Config, 1e4, 131072, {**_YARN, "factor": 4.0}),
    "GLM-4-9B-0414, twice": (Glm4Config, 1e4, 65536, {**_YARN, "factor": 2.0}),
    "GLM-4-9B-0414, 4 times, other betas": (
        Glm4Config,
        1e4,
        131072,
        {**_YARN, "factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25},
    ),
}


def main() -> None:
    """Write the file."""
    found = {}
    for name, (config_class, base, length, scaling) in MODELS.items():
        config = config_class(
            head_dim=128,
            max_position_embeddings=length,
            rope_parameters={
                "rope_type": "default",
                **scaling,
                "rope_theta": base,
                "partial_rotary_factor": 0.5,
            },
            partial_rotary_factor=0.5,
        )
        kind = Glm4RotaryEmbedding if config_class is Glm4Config else GlmRotaryEmbedding
        rotary = kind(config)
        found[name] = {
            "rope_ratio": base / 1e4,
            "seq_length": length,
            "rope_scaling": scaling or None,
            "turns": [float(each) for each in rotary.inv_freq.float()],
            "gain": float(rotary.attention_scaling),
        }
    text = json.dumps({"transformers": transformers.__version__, "models": found}, indent=1) + "\n"
    TARGET.write_text(text, encoding="utf-8")
    print(f"{TARGET.name}: {len(found)} models")


if __name__ == "__main__":
    main()
