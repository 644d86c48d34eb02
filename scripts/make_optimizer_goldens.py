"""Write tests/golden/training/optimizers.npz: ten steps of PyTorch's SGD and Muon and of transformers' Adafactor.

Run with an interpreter that has torch and transformers: ``python scripts/make_optimizer_goldens.py``. The tests
read the file and need neither.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.optimization import Adafactor

TARGET = Path(__file__).resolve().parents[1] / "tests" / "golden" / "training" / "optimizers.npz"
STEPS, WEIGHT_DECAY = 10, 0.1
LEARNING_RATES = [1e-2 * (1 + step % 3) for step in range(STEPS)]
SHAPES = {"wide": (3, 5), "tall": (6, 4), "bias": (5,)}  # only the matrices decay
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "sgd_momentum": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.1}),
    "sgd_nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adafactor": (Adafactor, {"relative_step": False}),
    "adafactor_mean": (
        Adafactor, {"relative_step": False, "scale_parameter": False, "beta1": 0.9},
    ),
    "adafactor_relative": (Adafactor, {"relative_step": True}),
    "adafactor_warmup": (Adafactor, {"relative_step": True, "warmup_init": True}),
    "muon": (torch.optim.Muon, {"adjust_lr_fn": "match_rms_adamw"}),  # in bfloat16
}  # fmt: skip


def run(
    case: str, weights: dict[str, np.ndarray], grads: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the weights after every step."""
    kind, options = CASES[case]
    names = [name for name in SHAPES if case != "muon" or name != "bias"]
    params = {name: torch.nn.Parameter(torch.tensor(weights[name])) for name in names}
    groups = [
        {"params": [param], "weight_decay": WEIGHT_DECAY if param.ndim == 2 else 0.0}
        for param in params.values()
    ]
    is_own = options.get("relative_step", False)
    optimizer = kind(groups, lr=None if is_own else LEARNING_RATES[0], **options)
    out: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for step in range(STEPS):
        for group in optimizer.param_groups:
            if not is_own:
                group["lr"] = LEARNING_RATES[step]
        for name, param in params.items():
            param.grad = torch.tensor(grads[name][step])
        optimizer.step()
        for name, param in params.items():
            out[name].append(param.detach().numpy().copy())
    return {f"{case}.{name}": np.stack(values) for name, values in out.items()}


def main() -> None:
    """Write the file and print the versions it was made with."""
    rng = np.random.default_rng(21)
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}
    grads = {n: rng.standard_normal((STEPS, *s)).astype(np.float32) for n, s in SHAPES.items()}
    arrays = {f"start.{name}": value for name, value in weights.items()}
    arrays |= {f"grad.{name}": value for name, value in grads.items()}
    for case in CASES:
        arrays |= run(case, weights, grads)
    arrays |= {"lr": np.array(LEARNING_RATES), "weight_decay": np.array(WEIGHT_DECAY)}
    np.savez_compressed(TARGET, **arrays)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{TARGET.name}: python {sys.version.split()[0]}, {versions}")


if __name__ == "__main__":
    main()
