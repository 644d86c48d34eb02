"""Run ours and the rivals in turn, round after round, and write the table and the plot.

    python -m benchmarks.run --rounds 5 --torch-python PATH --llama-python PATH

Every measurement is a process of its own. In each round all contestants of a group follow one another in
shuffled order, after the machine's limits, because a shared machine's speed drifts: only ratios
within a round are compared. Lines are kept as they come, so that a run that was broken off is not lost.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Watch, wait_until_quiet
from benchmarks.plan import (
    COMPILED,
    CONTESTANTS,
    FILES,
    GROUPS,
    LLAMA,
    OURS,
    Group,
    fits,
    module_of,
    select,
)
from benchmarks.plots import draw
from benchmarks.summary import read_lines
from benchmarks.table import document
from benchmarks.weights import write
from mindformers.machine import usable_cpus

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("decode-tiny-1", "prefill-tiny-1", "train-tiny-4", "growth-tiny-1")
_THREAD_NAMES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Runner:
    """Starts measuring processes and keeps what they print.

    Args:
        arguments: Of ``parse``.
        record: The file each line is added to.
    """

    def __init__(self, arguments: argparse.Namespace, record: Path) -> None:
        self.arguments, self.record = arguments, record
        names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
        self.environment = {
            **os.environ,
            **dict.fromkeys(_THREAD_NAMES, str(arguments.threads)),
            **dict.fromkeys(names, "1"),
            "TOKENIZERS_PARALLELISM": "false",
        }

    def python_of(self, who: str) -> str | None:
        """Return the interpreter of a contestant; None where it is not installed."""
        if who == OURS:
            return sys.executable
        path = self.arguments.llama_python if who == LLAMA else self.arguments.torch_python
        return str(path) if path else None

    def keep(self, line: dict[str, Any]) -> None:
        """Add a line to the record and show it."""
        with self.record.open("a") as file:
            file.write(json.dumps(line) + "\n")
        shown = next((line[n] for n in ("value", "skipped", "error") if line.get(n)), line)
        names = [str(line[name]) for name in ("who", "dtype", "what") if name in line]
        print(f"  {' '.join(names):40} {shown} {line.get('unit', '')}", flush=True)

    def limits(self, stamp: dict[str, Any]) -> None:
        """Measure the machine."""
        command = [sys.executable, "-m", "benchmarks.limits", "--folder", str(self.arguments.bench)]
        command += ["--threads", str(self.arguments.threads), "--repeats", "3"]
        for line, _ in self.lines_of(command, **blas_settings()):
            self.keep({**line, **stamp})

    def contest(self, group: Group, who: str, dtype: str, stamp: dict[str, Any]) -> None:
        """Measure one contestant once."""
        about = {"who": who, "what": group.what, "config": group.config}
        about |= {"dtype": dtype, "batch": group.batch}
        python = self.python_of(who)
        if python is None:
            self.keep({**about, "value": None, "skipped": "not installed", **stamp})
            return
        given = self.arguments
        command = [python, "-m", module_of(who), "--what", group.what, "--config", group.config]
        command += ["--dtype", dtype, "--batch", str(group.batch), "--models", str(given.models)]
        command += ["--threads", str(given.threads), "--seconds", str(given.seconds)]
        command += ["--longest", str(given.longest)] + ["--compiled"] * (who == COMPILED)
        wait_until_quiet(given.settle)
        watch = Watch()
        try:
            lines = list(self.lines_of(command))
        except RuntimeError as error:
            self.keep({**about, "value": None, "error": str(error), **stamp})
            return
        for line, seconds in lines:
            if group.what == "first-token" and not line.get("skipped"):
                # The child cannot know when it was started; its line is its first token.
                line |= {"value": round(seconds, 3), "repeats": 1, "load": watch.load()}
            self.keep({**line, **stamp})

    def lines_of(
        self, command: list[str], patience: int = 1, **environment: str
    ) -> Iterator[tuple[dict[str, Any], float]]:
        """Yield each JSON line a command prints, with the seconds from its start to that line.

        Args:
            command: What to start.
            patience: It may take so many times ``--timeout``.
            **environment: Variables it gets beside those of all.

        Raises:
            RuntimeError: If it fails or takes too long; the message is its last word.
        """
        started, longest = time.perf_counter(), patience * self.arguments.timeout
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        errors: list[str] = []
        listener = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
        listener.start()
        watch = threading.Timer(longest, process.kill)
        watch.start()
        try:
            for text in process.stdout or ():
                if text.startswith("{"):
                    yield json.loads(text), time.perf_counter() - started
        finally:
            code = process.wait()
            watch.cancel()
            listener.join()
        if code == -9:
            raise RuntimeError(f"stopped after {longest:g} s, or out of memory")
        if code:
            last = [text.strip() for text in errors if text.strip()]
            raise RuntimeError((last or [f"exit code {code}"])[-1][:300])


def blas_settings() -> dict[str, str]:
    """Return what NumPy's OpenBLAS must be told on a CPU newer than itself: it takes the oldest kernels there."""
    try:
        has_avx512 = " avx512dq " in Path("/proc/cpuinfo").read_text()
    except OSError:
        has_avx512 = False
    return {"OPENBLAS_CORETYPE": "SkylakeX"} if has_avx512 else {}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="decode-small-* ...")
    parser.add_argument("--skip", nargs="+", default=[], metavar="NAME", help="the same, left out")
    parser.add_argument("--who", nargs="+", default=[], choices=CONTESTANTS)
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--quick", action="store_true", help="one round of the tiny size: a trial")
    parser.add_argument("--torch-python", type=Path, help="Python with torch, transformers, peft")
    parser.add_argument("--llama-python", type=Path, help="Python with llama_cpp and gguf")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--seconds", type=float, default=6.0, help="repeats of a process, at most")
    parser.add_argument("--longest", type=int, default=32768, help="last context of growth")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for one process")
    parser.add_argument("--settle", type=float, default=0.0, help="seconds to wait for quiet")
    parser.add_argument("--seed", type=int, default=0, help="of the order in each round")
    parser.add_argument("--bench", type=Path, default=ROOT / ".bench", help="weights, programs")
    parser.add_argument("--results", type=Path, help="default: the bench folder's results")
    parser.add_argument("--name", help="of the result files; default: the time")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, min(arguments.seconds, 1.0)
        arguments.only = arguments.only or list(QUICK)
        arguments.longest = min(arguments.longest, 2048)
    arguments.bench = arguments.bench.resolve()
    arguments.models = arguments.bench / "models"
    arguments.results = arguments.results or arguments.bench / "results"
    return arguments


def prepare(runner: Runner, groups: list[Group]) -> None:
    """Write the weights the groups need, and let what ours builds at first use be built, once."""
    arguments = runner.arguments
    if any(who == OURS for group in groups for who, _ in group.entrants):
        write(arguments.models, "tiny", "fp32")
        command = [sys.executable, "-m", module_of(OURS), "--what", "first-token"]
        command += ["--config", "tiny", "--models", str(arguments.models)]
        print("starting ours once, unmeasured", flush=True)
        subprocess.run(command, cwd=ROOT, env=runner.environment, check=False, capture_output=True)
    for config in sorted({group.config for group in groups}):
        for dtype in ("fp32", "bf16"):
            write(arguments.models, config, dtype)
        if arguments.llama_python and any(who == LLAMA for g in groups for who, _ in g.entrants):
            command = [str(arguments.llama_python), "-m", "benchmarks.gguf_files"]
            command += ["--config", config, "--models", str(arguments.models)]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def order_of(group: Group, number: int, seed: int) -> list[tuple[str, str]]:
    """Return a round's order of the entrants: another each round, the same for the same seed."""
    entrants = list(group.entrants)
    random.Random(f"{seed} {number} {group.name}").shuffle(entrants)
    return entrants


def run(runner: Runner, groups: list[Group]) -> None:
    """Run all rounds."""
    for number in range(runner.arguments.rounds):
        for group in groups:
            print(f"round {number + 1}/{runner.arguments.rounds}: {group.name}", flush=True)
            stamp: dict[str, Any] = {"round": number, "group": group.name, "time": int(time.time())}
            runner.limits(stamp)
            for place, (who, dtype) in enumerate(order_of(group, number, runner.arguments.seed)):
                runner.contest(group, who, dtype, {**stamp, "order": place})


def run_files(runner: Runner) -> None:
    """Measure the work on files, once."""
    given = runner.arguments
    for what, script in FILES.items():
        if not fits(what, given.only, given.skip) or (given.who and OURS not in given.who):
            continue
        print(what, flush=True)
        about = {"who": "files", "what": what, "time": int(time.time())}
        try:
            command = [sys.executable, f"benchmarks/{script}"]
            if what == "convert" and given.torch_python:
                command += ["--torch-python", str(given.torch_python)]
            for line, _ in runner.lines_of(command, patience=4):
                runner.keep({**line, **about})
        except RuntimeError as error:
            runner.keep({**about, "error": str(error)})


def publish(record: Path) -> tuple[Path, Path]:
    """Write the table and the plot of a record beside it; return their paths."""
    lines = read_lines(record)
    table, plot = record.with_suffix(".md"), record.with_suffix(".png")
    table.write_text(document(lines))
    return table, draw(lines, plot)


def main() -> None:
    """Measure, then write the results."""
    arguments = parse()
    try:
        groups = select(arguments.only, arguments.who, arguments.skip)
    except ValueError as error:
        sys.exit(str(error))
    if arguments.list:
        print("\n".join([*(group.name for group in GROUPS), *FILES]))
        return
    arguments.results.mkdir(parents=True, exist_ok=True)
    name = arguments.name or time.strftime("%Y%m%d-%H%M%S")
    record = arguments.results / f"{name}.jsonl"
    print(f"{platform.machine()}, {arguments.threads} threads; lines go to {record}")
    runner = Runner(arguments, record)
    prepare(runner, groups)
    run(runner, groups)
    run_files(runner)
    for path in publish(record):
        print(f"written {path}")


if __name__ == "__main__":
    main()
