"""Measure what the machine can do at most: memory reads, fused multiply-adds, NumPy's matrix product.

    python -m benchmarks.limits --folder .bench

Prints one JSON line per figure: the best repeat, because a limit is the best that was seen, and the median.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measure import Watch
from benchmarks.presets import CACHED_MIB
from mindformers.machine import usable_cpus

SOURCE = Path(__file__).with_name("limits.c")
_GEMM = (1024, 2048, 2048)  # tokens, inputs, outputs: a prompt through a middling matrix


def build(folder: Path) -> Path | None:
    """Compile limits.c unless the program is newer; return it, None without a C compiler."""
    program = folder / "limits"
    if program.is_file() and program.stat().st_mtime > SOURCE.stat().st_mtime:
        return program
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        print("note: no C compiler (cc or gcc): memory's and arithmetic's limits are not measured")
        return None
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["-O3", "-march=native", "-ffast-math", "-pthread"]
    subprocess.run([compiler, *flags, str(SOURCE), "-o", str(program)], check=True)
    return program


def run(program: Path, threads: int, kind: str, repeats: int, *amounts: int) -> list[float]:
    """Return the figures of one kind; the amounts are those of limits.c."""
    words = [str(program), str(threads), kind, str(repeats), *map(str, amounts)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def matrix_product(repeats: int) -> list[float]:
    """Return GFLOP/s of NumPy's float32 matrix product, on as many threads as its BLAS was told."""
    rows, inner, columns = _GEMM
    rng = np.random.default_rng(0)
    left = rng.standard_normal((rows, inner), np.float32)
    right = rng.standard_normal((inner, columns), np.float32)
    out = np.empty((rows, columns), np.float32)
    np.dot(left, right, out=out)
    figures = []
    for _ in range(repeats):
        started = time.perf_counter()
        np.dot(left, right, out=out)
        figures.append(2e-9 * rows * inner * columns / (time.perf_counter() - started))
    return figures


def works(arguments: argparse.Namespace) -> dict[str, Callable[[], list[float]]]:
    """Return what can be measured here: name -> function that returns one figure per repeat."""
    program, repeats, threads = build(arguments.folder), arguments.repeats, arguments.threads
    found: dict[str, Callable[[], list[float]]] = {}
    if program:
        found = {
            "read, 1 thread": lambda: run(program, 1, "read", repeats, arguments.mib, 1),
            "read": lambda: run(program, threads, "read", repeats, arguments.mib, 1),
            "read, cached": lambda: run(program, threads, "read", repeats, CACHED_MIB, 64),
            "fma": lambda: run(program, threads, "fma", repeats, 10, 4),
        }
    return {**found, "gemm": lambda: matrix_product(repeats)}


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the program is built")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mib", type=int, default=768, help="memory read; more than the caches")
    arguments = parser.parse_args()
    for what, measure in works(arguments).items():
        watch = Watch()
        figures = measure()
        line = {
            "who": "limit",
            "what": what,
            "value": round(max(figures), 2),
            "median": round(statistics.median(figures), 2),
            "unit": "GB/s" if what.startswith("read") else "GFLOP/s",
            "repeats": arguments.repeats,
            "load": watch.load(),
            "threads": 1 if what.endswith("1 thread") else arguments.threads,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
