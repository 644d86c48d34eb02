"""A small GLM network with adapters, and adapters as peft saved them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
from mindformers.pet.lora import lora_layers
from tests.support.golden_model import TRAIN_CASE, huggingface_weights
from tests.support.networks import golden_config

GOLDEN = Path(__file__).parents[1] / "golden" / "pet"
SPLIT = {"qkv_concat": False}  # query, key and value apart, as in GlmForCausalLM


def base_file(folder: Path) -> Path:
    """Write the weights of the golden case under Hugging Face's names; return the file."""
    path = folder / "base.safetensors"
    if not path.exists():
        save_file(huggingface_weights(TRAIN_CASE), path)
    return path


def network_with_base(folder: Path, **changes: Any) -> ChatGLM2ForConditionalGeneration:
    """Return the golden network with its weights; ``pet_config`` among the changes gives it adapters."""
    network = ChatGLM2ForConditionalGeneration(golden_config(TRAIN_CASE, **changes))
    network.load_checkpoint(base_file(folder))
    return network


def golden(name: str) -> dict[str, np.ndarray]:
    """Return what scripts/make_lora_goldens.py wrote for a case."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def peft_folder(folder: Path, name: str, **changes: Any) -> Path:
    """Write a golden case's adapters as peft saved them, some settings changed; return the folder."""
    found = golden(name)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k.removeprefix("saved/"): v for k, v in found.items() if k.startswith("saved/")}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {**json.loads(str(found["config"])), **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def set_adapters(network: Any, seed: int = 5) -> None:
    """Give every adapter a B that is not 0, in place."""
    rng = np.random.default_rng(seed)
    for layer in lora_layers(network).values():
        high = layer.mindpet_delta_lora_b.asnumpy()
        high[...] = rng.standard_normal(high.shape).astype(np.float32) * 0.1
