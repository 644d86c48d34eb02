#!/usr/bin/env python
"""Ask Hugging Face's Glm4ForCausalLM (GLM-4-0414, GLM-Z1) for reference values; writes tests/golden/parity/0414_*.

Needs the extra ``parity`` (torch and transformers). The tests read what this writes and need neither.
Run from the repository: ``python scripts/make_glm4_0414_goldens.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
from make_goldens import ADAMW, TARGET, forward_golden, training_golden  # noqa: E402

from tests.support.golden_model import CASES_0414, TRAIN_CASES_0414  # noqa: E402


def main() -> None:
    """Write one .npz per case, one per training case, and a note of the versions used."""
    for case in CASES_0414:
        np.savez_compressed(TARGET / f"{case.name}.npz", **forward_golden(case))
        print(f"{case.name}: written")
    for case in TRAIN_CASES_0414:
        np.savez_compressed(TARGET / f"{case.name}_training.npz", **training_golden(case))
        print(f"{case.name}_training: written")
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "oracle": "Glm4ForCausalLM",
        "adamw": {**ADAMW, "betas": list(ADAMW["betas"])},
    }
    text = json.dumps(versions, indent=2) + "\n"
    (TARGET / "0414_versions.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
