"""Alpaca rows to conversations, one ``{"messages": [...]}`` a line: the first step to a data set.

``alpaca_converter.py --data_path alpaca_data.json --output_path alpaca_glm4_data.jsonl``
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mindformers.errors import DataError
from mindformers.guard import DEBUG_FLAG, FlagParser, leaving_on_sigterm, run_guarded

if TYPE_CHECKING:
    from mindformers.dataset.tally import Tally
    from mindformers.tools.dataset_preprocess.report import Bar


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = FlagParser(
        prog="alpaca_converter.py",
        description="Turn alpaca rows (instruction, input, output) into conversations, as "
        "JSON Lines. sharegpt and messages rows are taken too.",
    )
    add = parser.add_argument
    add(
        "--data_path",
        default="alpaca_data.json",
        help="a JSON array or JSON Lines (default: %(default)s)",
    )
    add(
        "--output_path",
        default="alpaca_glm4_data.jsonl",
        help="the JSON Lines file to write (default: %(default)s)",
    )
    add("--overwrite", action="store_true", help="replace an existing output")
    add(
        "--on_error",
        choices=("error", "skip"),
        default="skip",
        help="whether a malformed row (the published data has some without an answer) is left out "
        "and counted, or ends the work (default: skip)",
    )
    add(DEBUG_FLAG, action="store_true", help="show the traceback of an error")
    return parser


@leaving_on_sigterm()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return its exit code."""
    arguments = build_parser().parse_args(argv)
    # Loaded here, so that --help answers at once.
    from mindformers.tools.dataset_preprocess.report import counts, print_dropped, print_table

    begin = time.monotonic()
    source, output = Path(arguments.data_path), Path(arguments.output_path)
    tally = convert(
        source, output, overwrite=arguments.overwrite, skip_malformed=arguments.on_error == "skip"
    )
    print_dropped(tally)
    print_table(output.name, counts(tally, time.monotonic() - begin))
    print(f"Conversations written to {output}")
    return 0


def convert(
    source: Path, output: Path, *, overwrite: bool = False, skip_malformed: bool = True
) -> Tally:
    """Write the conversations of ``source`` to ``output`` and return what became of the rows.

    Args:
        source: Alpaca rows (or another known form).
        output: JSON Lines, UTF-8, readable characters; whole or not there.
        overwrite: Replace an existing output.
        skip_malformed: Leave malformed rows out instead of stopping.

    Raises:
        DataError: If the input cannot be used, or no row of it, or the output exists.
        CheckpointError: If the output cannot be written.
    """
    from mindformers.checkpoint.atomic import atomic_file
    from mindformers.tools.dataset_preprocess.report import progress_bar

    if output.exists() and not overwrite:
        raise DataError(
            "the output exists already",
            where=str(output),
            fix="add --overwrite to replace it, or choose another name",
        )
    if output.exists() and source.exists() and output.samefile(source):
        raise DataError("input and output are the same file", where=str(output))
    total_bytes = source.stat().st_size if source.is_file() else 0
    with progress_bar(output.name, total_bytes) as bar, atomic_file(output) as temp:
        tally = _write(source, temp, skip_malformed, bar)
        if not tally.rows_written:
            raise DataError(
                f"none of {tally.rows_read} rows can be used",
                where=str(source),
                fix=tally.advice(),
            )
    return tally


def _write(source: Path, temp: Path, skip_malformed: bool, bar: Bar) -> Tally:
    from mindformers.dataset.formats import conversation_or_error
    from mindformers.dataset.rows import read_rows
    from mindformers.dataset.tally import Tally

    tally = Tally()
    with temp.open("w", encoding="utf-8", newline="\n") as stream:
        for row in read_rows(source, bar.add_bytes):
            tally.rows_read += 1
            outcome = row if isinstance(row, DataError) else conversation_or_error(row, order="any")
            if isinstance(outcome, DataError):
                if not skip_malformed:
                    raise outcome
                tally.drop("malformed", outcome)
                continue
            stream.write(json.dumps(outcome.as_dict(), ensure_ascii=False) + "\n")
            tally.rows_written += 1
            if not tally.rows_read % 256:
                bar.show_rows(tally.rows_read)
    return tally


if __name__ == "__main__":
    sys.exit(run_guarded(main))
