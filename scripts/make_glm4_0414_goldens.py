#!/usr/bin/env python
"""Ask Hugging Face's Glm4ForCausalLM (GLM-4-0414, GLM-Z1) and tokenizers for reference values.

Writes tests/golden/parity/0414_* and tests/golden/chat/glm4_0414_ids.json. Needs the extra ``parity``
(torch and transformers); the tests read what this writes and need neither.
Run from the repository: ``python scripts/make_glm4_0414_goldens.py``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
from make_goldens import ADAMW, TARGET, forward_golden, training_golden  # noqa: E402

from tests.support.chats_0414 import CHATS, MARKERS, TEMPLATES  # noqa: E402
from tests.support.golden_model import CASES_0414, TRAIN_CASES_0414  # noqa: E402
from tests.support.vocab import write_0414_tokenizer  # noqa: E402


def chat_goldens() -> dict[str, Any]:
    """Text and ids of every conversation by every template, from the files of a model directory."""
    found: dict[str, Any] = {}
    for name, template in TEMPLATES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_0414_tokenizer(Path(folder), template, MARKERS[name])
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        for chat, given in CHATS.items():
            options = {"add_generation_prompt": True, **given}
            messages = options.pop("messages")
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            found[f"{name}/{chat}"] = {"text": text, "ids": ids}
    return found


def main() -> None:
    """Write one .npz per case, one per training case, and a note of the versions used."""
    for case in CASES_0414:
        np.savez_compressed(TARGET / f"{case.name}.npz", **forward_golden(case))
        print(f"{case.name}: written")
    for case in TRAIN_CASES_0414:
        np.savez_compressed(TARGET / f"{case.name}_training.npz", **training_golden(case))
        print(f"{case.name}_training: written")
    path = ROOT / "tests" / "golden" / "chat" / "glm4_0414_ids.json"
    text = json.dumps(chat_goldens(), ensure_ascii=False, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")
    print(f"{path.name}: written")
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "oracle": "Glm4ForCausalLM",
        "adamw": {**ADAMW, "betas": list(ADAMW["betas"])},
    }
    note = json.dumps(versions, indent=2) + "\n"
    (TARGET / "0414_versions.json").write_text(note, encoding="utf-8")


if __name__ == "__main__":
    main()
