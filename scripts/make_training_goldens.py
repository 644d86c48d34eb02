"""Write tests/golden/training/adamw.npz: ten AdamW steps of PyTorch, with and without clipping.

Run with an interpreter that has torch: ``python scripts/make_training_goldens.py``. The tests read
the file and need no torch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

TARGET = Path(__file__).resolve().parents[1] / "tests" / "golden" / "training" / "adamw.npz"
STEPS, MAX_NORM = 10, 1.0
LEARNING_RATES = [1e-2 * (1 + step % 3) for step in range(STEPS)]
BETAS, EPS, WEIGHT_DECAY = (0.9, 0.95), 1e-8, 0.1


def run(
    weights: dict[str, np.ndarray], grads: dict[str, np.ndarray], clip: bool
) -> dict[str, np.ndarray]:
    """Return weights and moments after every step; only the matrix decays."""
    params = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in weights.items()}
    groups = [
        {"params": [params["matrix"]], "weight_decay": WEIGHT_DECAY},
        {"params": [params["bias"]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPS)
    out: dict[str, list[np.ndarray]] = {}
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATES[step]
        for name, param in params.items():
            param.grad = torch.tensor(grads[name][step])
        norm = torch.nn.utils.clip_grad_norm_(params.values(), MAX_NORM if clip else float("inf"))
        optimizer.step()
        out.setdefault("norm", []).append(norm.numpy())
        for name, param in params.items():
            state = optimizer.state[param]
            out.setdefault(name, []).append(param.detach().numpy().copy())
            out.setdefault(f"adam_m.{name}", []).append(state["exp_avg"].numpy().copy())
            out.setdefault(f"adam_v.{name}", []).append(state["exp_avg_sq"].numpy().copy())
    return {f"{'clip' if clip else 'plain'}.{key}": np.stack(value) for key, value in out.items()}


def main() -> None:
    """Write the file and print the versions it was made with."""
    rng = np.random.default_rng(20)
    weights = {
        "matrix": rng.standard_normal((3, 5)).astype(np.float32),
        "bias": rng.standard_normal(5).astype(np.float32),
    }
    grads = {
        name: rng.standard_normal((STEPS, *value.shape)).astype(np.float32)
        for name, value in weights.items()
    }
    arrays = {f"start.{name}": value for name, value in weights.items()}
    arrays |= {f"grad.{name}": value for name, value in grads.items()}
    arrays |= run(weights, grads, clip=False) | run(weights, grads, clip=True)
    arrays |= {
        "lr": np.array(LEARNING_RATES),
        "betas": np.array(BETAS),
        "eps": np.array(EPS),
        "weight_decay": np.array(WEIGHT_DECAY),
        "max_norm": np.array(MAX_NORM),
    }
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(TARGET, **arrays)
    versions = f"torch {torch.__version__}, numpy {np.__version__}"
    print(f"{TARGET.name}: python {sys.version.split()[0]}, {versions}")


if __name__ == "__main__":
    main()
