#!/usr/bin/env python
"""Ask Hugging Face's beam search for reference answers and write them to tests/golden/parity/beams.json.

Needs the extra ``parity`` (torch and transformers). The tests read what this writes and need neither.
Run from the repository: ``python scripts/make_beam_goldens.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
from make_goldens import TARGET, build_oracle  # noqa: E402

from tests.support.beams import SEARCH_CASES, SEARCHES, prompts  # noqa: E402


def search(model: Any, prompt: list[int], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the answers to one prompt, the best first: ids with the end token, and the score."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
            return_dict_in_generate=True, output_scores=True, **settings,
        )  # fmt: skip
    ends = set(settings.get("eos_token_id", ()))
    answers = []
    for row, score in zip(
        found.sequences[:, len(prompt) :].tolist(), found.sequences_scores, strict=True
    ):
        length = next((n + 1 for n, token in enumerate(row) if token in ends), len(row))
        answers.append({"ids": row[:length], "score": round(score.item(), 6)})
    return answers


def main() -> None:
    """Write every search over every case."""
    found = {}
    for case in SEARCH_CASES:
        model = build_oracle(case)
        found[case.name] = [
            [search(model, prompt, settings) for prompt in prompts(case)] for settings in SEARCHES
        ]
        print(f"{case.name}: searched")
    path = TARGET / "beams.json"
    path.write_text(json.dumps(found) + "\n", encoding="utf-8")
    print(f"{path.name}: written")


if __name__ == "__main__":
    main()
