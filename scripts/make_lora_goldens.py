#!/usr/bin/env python
"""Ask peft on Hugging Face's GlmForCausalLM for reference values; writes tests/golden/pet/*.npz.

Needs torch, transformers and peft. The tests read what this writes and need none of them.
Run from the repository: ``python scripts/make_lora_goldens.py``. With ``--check FOLDER`` it instead loads
adapters that this library saved for the same network, and prints the largest difference of its logits
from those in ``FOLDER/logits.npy``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
from make_goldens import ADAMW, build_oracle, train_steps  # noqa: E402

from tests.support.golden_model import TRAIN_CASE, training_batches  # noqa: E402

TARGET = ROOT / "tests" / "golden" / "pet"
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]
SETTINGS: dict[str, dict[str, Any]] = {
    "every_layer": {"r": 4, "lora_alpha": 8, "target_modules": EVERY},
    "rslora": {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": EVERY[:3]},
    "patterns": {
        "r": 4, "lora_alpha": 8, "target_modules": EVERY,
        "rank_pattern": {"q_proj": 2, "layers.1.self_attn.v_proj": 3},
        "alpha_pattern": {"o_proj": 5, "layers.0.mlp.down_proj": 3},
    },
}  # fmt: skip
STEPS = 3


def adapted(settings: dict[str, Any]) -> peft.PeftModel:
    """Return the oracle with adapters whose B is not 0."""
    model = peft.get_peft_model(
        build_oracle(TRAIN_CASE), peft.LoraConfig(task_type="CAUSAL_LM", **settings)
    )
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return model


def golden(settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return what peft saves, logits, the gradients of A and B, and both after some AdamW steps."""
    model = adapted(settings).eval()
    batches = training_batches(TRAIN_CASE, STEPS)
    found: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        saved = load_file(Path(folder) / "adapter_model.safetensors")
        text = (Path(folder) / "adapter_config.json").read_text(encoding="utf-8")
    found |= {f"saved/{name}": array for name, array in saved.items()}
    found["config"] = np.array(text)
    with torch.no_grad():
        found["logits"] = model(input_ids=torch.from_numpy(batches[0][0])).logits.numpy()
    trained = {
        name.replace(".default", ""): parameter
        for name, parameter in model.train().named_parameters()
        if parameter.requires_grad
    }
    optimizer = torch.optim.AdamW(list(trained.values()), **ADAMW)
    return found | train_steps(model, trained, optimizer, batches)


def check(folder: Path) -> None:
    """Print how far peft's logits with saved adapters are from the saved logits."""
    model = peft.PeftModel.from_pretrained(build_oracle(TRAIN_CASE), folder).eval()
    ids = torch.from_numpy(training_batches(TRAIN_CASE, 1)[0][0])
    with torch.no_grad():
        logits = model(input_ids=ids).logits.numpy()
    print(f"largest difference: {np.abs(logits - np.load(folder / 'logits.npy')).max():.2e}")


def main() -> None:
    """Write the files, or check a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", type=Path, metavar="FOLDER")
    folder = parser.parse_args().check
    if folder is not None:
        check(folder)
        return
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, settings in SETTINGS.items():
        if (TARGET / f"{name}.npz").exists():
            continue  # delete a file to have it written anew
        np.savez_compressed(TARGET / f"{name}.npz", **golden(settings))
    versions = (peft.__version__, transformers.__version__, torch.__version__)
    print("written; peft {}, transformers {}, torch {}".format(*versions))


if __name__ == "__main__":
    main()
