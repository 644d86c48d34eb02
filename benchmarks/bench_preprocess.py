"""Speed of glm4_preprocess.py beside tokenizing alone: a plain tiktoken loop over the same texts.

    python benchmarks/bench_preprocess.py --vocab_file tokenizer.model --data_path alpaca_data.json

Alpaca rows are repeated, each time a little changed, to --rows of them. Every figure is a process of its
own and all of them run in turn in every round. Prints one JSON line per figure: rows per second (median
of the rounds), its ratio to tiktoken's loop in the same round, CPU time per row and peak memory. The
tool's seconds are those of the whole process, from its start to its end; tiktoken's are the loop alone,
on one thread. Without the two paths: the reference files beside the checkout, or else the examples' own
data and a vocabulary made of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

from figures import measure

from mindformers.machine import usable_cpus

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "mindformers" / "tools" / "dataset_preprocess" / "glm4" / "glm4_preprocess.py"
EXAMPLES = ROOT / "examples" / "tiny_chat"
SMALL_ROWS = 999  # of an input that is over before workers would help
LOOP = "tiktoken loop, 1 thread"

_LOOP = """
import json, sys, time
from pathlib import Path
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.dataset.formats import read_conversations
tokenizer = ChatGLM4Tokenizer(sys.argv[1])
texts = [
    segment.text
    for talk in read_conversations(sys.argv[2])
    for segment in tokenizer.render(talk.as_dict()["messages"])
    if not segment.is_control
]
encode = tokenizer._encoder._encoding.encode_ordinary
start, own = time.perf_counter(), time.process_time()
for text in texts:
    encode(text)
print(json.dumps([time.perf_counter() - start, time.process_time() - own, 0]))
"""
_TOOL = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([seconds, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


def write_rows(source: Path, target: Path, count: int) -> None:
    """Write ``count`` rows as JSON Lines, going round those of ``source``; no two are alike."""
    rows = json.loads(source.read_text(encoding="utf-8"))
    with target.open("w", encoding="utf-8") as stream:
        for number, row in enumerate(islice(cycle(rows), count)):
            turn = number // len(rows)
            changed = {**row, "instruction": f"{row['instruction']} ({turn})"} if turn else row
            stream.write(json.dumps(changed, ensure_ascii=False) + "\n")


def default_inputs(folder: Path) -> tuple[Path, Path]:
    """Return a vocabulary and alpaca rows: the reference files, or what the examples can make."""
    sys.path.insert(0, str(ROOT))
    from tests.support.shared import SHARED

    vocab, rows = SHARED / "data" / "glm4_tokenizer.model", SHARED / "data" / "alpaca_en_demo.json"
    if vocab.is_file() and rows.is_file():
        return vocab, rows
    vocab, rows = folder / "tokenizer.model", EXAMPLES / "alpaca_tiny.json"
    make = [sys.executable, EXAMPLES / "train_rank_file.py", "--data", rows, "--output", vocab]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    return vocab, rows


def figures_of(folder: Path, vocab: Path) -> dict[str, list[str | Path]]:
    """Return figure -> command."""

    def tool(rows: str, seq_length: int, *more: str) -> list[str | Path]:
        return [
            *(sys.executable, "-c", _TOOL, sys.executable, TOOL, "--overwrite"),
            *("--vocab_file", vocab, "--input_glob", folder / rows),
            *("--output_file", folder / "out.mindrecord", "--seq_length", str(seq_length), *more),
        ]

    return {
        LOOP: [sys.executable, "-c", _LOOP, vocab, folder / "rows.jsonl"],
        "rows of 512": tool("rows.jsonl", 512),
        "rows of 512, 1 process": tool("rows.jsonl", 512, "--num_workers", "1"),
        "rows of 8192": tool("rows.jsonl", 8192),
        f"{SMALL_ROWS} rows of 512": tool("small.jsonl", 512),
    }


def summary(
    figure: str, runs: dict[str, list[list[float]]], num_rows: dict[str, int]
) -> dict[str, object]:
    """Return the line of one figure; a ratio is the median over the rounds of that round's ratio."""
    count = num_rows[figure]
    speeds = [count / seconds for seconds, _, _ in runs[figure]]
    line: dict[str, object] = {
        "bench": "preprocess",
        "figure": figure,
        "rows/s": round(statistics.median(speeds)),
        "min": round(min(speeds)),
        "max": round(max(speeds)),
        "cpu_us_per_row": round(
            statistics.median(cpu for _, cpu, _ in runs[figure]) / count * 1e6, 1
        ),
    }
    if figure != LOOP and LOOP in runs:
        loop = [num_rows[LOOP] / seconds for seconds, _, _ in runs[LOOP]]
        pairs = zip(speeds, loop, strict=True)
        line[f"to {LOOP}"] = round(statistics.median(own / other for own, other in pairs), 2)
    if peak := max(peak for _, _, peak in runs[figure]):
        line["peak_rss_MB"] = round(peak * 1024 / 1e6)
    return line


def main() -> None:
    """Print one JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab_file", type=Path, help="tokenizer.model")
    parser.add_argument("--data_path", type=Path, help="alpaca rows, a JSON array")
    parser.add_argument("--rows", type=int, default=38_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--figures", nargs="*", help="parts of names; default: all")
    parser.add_argument("--folder", help="where to work; default: the system's temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        if not (args.vocab_file and args.data_path):
            args.vocab_file, args.data_path = default_inputs(folder)
        write_rows(args.data_path, folder / "rows.jsonl", args.rows)
        write_rows(args.data_path, folder / "small.jsonl", SMALL_ROWS)
        figures = {
            figure: command
            for figure, command in figures_of(folder, args.vocab_file).items()
            if not args.figures or any(part in figure for part in args.figures)
        }
        runs: dict[str, list[list[float]]] = {figure: [] for figure in figures}
        for _ in range(args.rounds):  # in turn, so that a slow minute hits all alike
            for figure, command in figures.items():
                runs[figure].append(measure(command))
    counts = {figure: SMALL_ROWS if str(SMALL_ROWS) in figure else args.rows for figure in figures}
    for figure in runs:
        about = {"rows": counts[figure], "rounds": args.rounds, "cores": usable_cpus()}
        print(json.dumps({**summary(figure, runs, counts), **about}), flush=True)


if __name__ == "__main__":
    main()
