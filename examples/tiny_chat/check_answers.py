#!/usr/bin/env python
"""Ask a finetuned model every question of its data set and count the answers that equal the data's."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mindformers.errors import DataError
from mindformers.logger import setup_console_logging


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns 0 when at least ``--at_least`` of the answers are equal, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="directory of the model")
    parser.add_argument("--data", required=True, help="alpaca JSON file it was trained on")
    parser.add_argument(
        "--at_least", type=float, default=0.8, help="part of the rows that must be equal (0 to 1)"
    )
    parser.add_argument("--show", type=int, default=8, help="answers to print")
    parser.add_argument("--batch_size", type=int, default=32, help="questions asked together")
    arguments = parser.parse_args(argv)

    from mindformers.dataset.formats import alpaca_prompt
    from mindformers.parallel.runtime import start_runtime
    from mindformers.tasks.pipeline import pipeline

    setup_console_logging(30)
    rows = json.loads(Path(arguments.data).read_text(encoding="utf-8"))
    if not rows:
        raise DataError("holds no rows", where=arguments.data)
    start_runtime(device_target="CPU", mode=0)
    answerer = pipeline("text_generation", arguments.model)
    questions = [alpaca_prompt(row["instruction"], row.get("input", "")) for row in rows]
    started = time.monotonic()
    found = answerer.run(
        questions, batch_size=arguments.batch_size, apply_chat_template=True, max_new_tokens=48
    )
    seconds = time.monotonic() - started
    equal = [answer == row["output"] for (answer, _), row in zip(found, rows, strict=True)]
    step = max(len(rows) // max(arguments.show, 1), 1)
    for index in range(0, len(rows), step)[: arguments.show]:
        print(f"  {'=' if equal[index] else '≠'} {questions[index]} -> {found[index][0]}")
    print(f"{sum(equal)} of {len(rows)} answers equal the data's (greedy, {seconds:.1f} s)")
    if sum(equal) < arguments.at_least * len(rows):
        print(f"expected at least {arguments.at_least:.0%}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
