"""Sizes the benchmarks run at, and what a measurement prints."""

from __future__ import annotations

import json
import resource
import statistics
from typing import Any

PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"layers": 4, "hidden": 256, "heads": 8, "groups": 2, "ffn": 688, "vocab": 4096},
    "small": {"layers": 12, "hidden": 768, "heads": 12, "groups": 2, "ffn": 2048, "vocab": 32000},
}
EPS = 1.5625e-07  # GLM-4 config.json: layernorm_epsilon


def report(**figures: Any) -> None:
    """Print one JSON line; the peak memory of this process is added."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({**figures, "peak_mib": peak}), flush=True)


def median(values: list[float]) -> float:
    """Return the median, rounded."""
    return round(statistics.median(values), 2)
