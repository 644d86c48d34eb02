"""What processes take on this machine beside what the plan says they will.

    python benchmarks/bench_plan.py [--sizes small medium large] [--layouts ...]

A GLM-4 of random weights is finetuned for a few steps in every size and layout. One JSON line per run: peak
memory of the largest process, the plan's total for it and their ratio; weights and optimizer of that process,
measured and planned, and as a share of what one process of the same size holds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from finetune_runs import CONFIG, ROOT, SIZES, finetune_once, settings_of, write_random_rows

STEPS, ROWS, TOKENS = 3, 4, {"small": 256, "medium": 512, "large": 384}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {"runner_config.batch_size": ROWS}),
    "one, recomputed": (1, {"runner_config.batch_size": ROWS, "recompute_config.recompute": True}),
    "data 2": (2, {"parallel_config.data_parallel": 2, "runner_config.batch_size": ROWS // 2}),
    "data 2, shared optimizer": (
        2,
        {"parallel_config.data_parallel": 2, "runner_config.batch_size": ROWS // 2,
         "parallel.enable_parallel_optimizer": True},
    ),
    "model 2": (2, {"parallel_config.model_parallel": 2, "runner_config.batch_size": ROWS}),
    "pipeline 2": (
        2,
        {"parallel_config.pipeline_stage": 2, "parallel_config.micro_batch_num": ROWS,
         "runner_config.batch_size": 1},
    ),
    "data 4, shared optimizer": (
        4,
        {"parallel_config.data_parallel": 4, "runner_config.batch_size": 1,
         "parallel.enable_parallel_optimizer": True},
    ),
    "model 4": (4, {"parallel_config.model_parallel": 4, "runner_config.batch_size": ROWS,
                    "parallel_config.vocab_emb_dp": False}),
    "pipeline 4": (
        4,
        {"parallel_config.pipeline_stage": 4, "parallel_config.micro_batch_num": ROWS,
         "runner_config.batch_size": 1},
    ),
}  # fmt: skip
USUAL = ["one", "data 2, shared optimizer", "model 2", "pipeline 2"]


def planned(settings: dict[str, Any], is_parallel: bool) -> list[dict[str, int]]:
    """Return the plan's figures of every rank."""
    from mindformers.config.overrides import Patch
    from mindformers.config.run_config import load_run_config
    from mindformers.tasks.plan_job import job_of
    from mindformers.tasks.plan_memory import rank_memory

    keys = {**settings, "run_mode": "finetune", "use_parallel": is_parallel}
    patches = [
        Patch(tuple(int(p) if p.isdigit() else p for p in key.split(".")), value, "here")
        for key, value in keys.items()
    ]
    job = job_of(load_run_config(ROOT / CONFIG, patches))
    return [rank_memory(job, rank).to_dict() for rank in range(job.layout.size)]


def compare(size: str, name: str, folder: Path) -> dict[str, Any]:
    """Run one size in one layout and return its figures; bytes in MB of 10^6."""
    processes, changes = LAYOUTS[name]
    tokens = TOKENS.get(size, 256)
    settings = {**settings_of(size, tokens, STEPS), **changes}
    data = write_random_rows(
        folder / "rows.mindrecord", ROWS * (STEPS + 1), tokens, SIZES[size]["padded_vocab_size"]
    )
    run = finetune_once(settings, processes, data, folder)
    plan = planned(settings, processes > 1)
    ratios = [part["total"] / 1e6 / each.peak for part, each in zip(plan, run.shares, strict=True)]
    worst = max(range(processes), key=lambda rank: abs(ratios[rank] - 1))
    part, share = plan[worst], run.shares[worst]
    return {
        "size": size, "layout": name, "rank": worst, "peak_mb": share.peak,
        "planned_mb": round(part["total"] / 1e6), "planned_of_peak": round(ratios[worst], 3),
        "weights_mb": share.weights, "planned_weights_mb": round(part["weights"] / 1e6, 1),
        "optimizer_mb": share.optimizer, "planned_optimizer_mb": round(part["optimizer"] / 1e6, 1),
    }  # fmt: skip


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=list(TOKENS), choices=list(SIZES))
    parser.add_argument("--layouts", nargs="+", default=USUAL, choices=list(LAYOUTS))
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    for size in arguments.sizes:
        for name in arguments.layouts:
            with tempfile.TemporaryDirectory() as temp:
                print(json.dumps(compare(size, name, Path(temp))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
