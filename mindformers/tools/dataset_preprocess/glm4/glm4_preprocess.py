"""Conversations to MindRecord: the data set that GLM-4 is finetuned on.

``glm4_preprocess.py --input_glob 'data/*.jsonl' --vocab_file tokenizer.model
--output_file alpaca.mindrecord --seq_length 8192``
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from glob import glob
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers.errors import DataError, did_you_mean
from mindformers.guard import DEBUG_FLAG, FlagParser, leaving_on_sigterm, run_guarded

if TYPE_CHECKING:
    from mindformers.dataset.row_encoder import EncodeOptions
    from mindformers.dataset.tally import Tally


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = FlagParser(
        prog="glm4_preprocess.py",
        description="Make a MindRecord data set of conversations: input_ids and labels, int32, "
        "labels shifted and -100 on everything the model is not to say.",
    )
    add = parser.add_argument
    add(
        "--input_glob",
        default="./alpaca_glm4_data.jsonl",
        help="input files, JSON Lines or JSON arrays: a path or a pattern such as 'data/**/*.jsonl'"
        " (in quotes), or Parquet files; messages, alpaca, sharegpt, ADGen rows (default: %(default)s)",
    )
    add(
        "--output_file",
        default="./alpaca-fastchat-glm4.mindrecord",
        help="the data set (default: %(default)s)",
    )
    add(
        "--vocab_file",
        default="./tokenizer.model",
        help="tokenizer.model; or a model folder or its tokenizer.json, whose chat template is then "
        "used too (default: %(default)s)",
    )
    add(
        "--tokenizer_type",
        choices=("ChatGLM2Tokenizer", "ChatGLM3Tokenizer", "ChatGLM4Tokenizer"),
        help="whose form of a conversation is written (default: that of the vocabulary's folder)",
    )
    add("--file_partition", type=_count, default=1, help="number of MindRecord files (default: 1)")
    add("--repeat", type=_count, default=1, help="how often the data is written (default: 1)")
    add("--seq_length", type=_count, default=8192, help="tokens of a row (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace an existing output")
    add(
        "--preview",
        type=int,
        default=0,
        metavar="N",
        help="show the first N rows as the model sees them",
    )
    add("--num_workers", type=_count, help="processes that encode (default: the cores)")
    _add_row_flags(add)
    add(DEBUG_FLAG, action="store_true", help="show the traceback of an error")
    return parser


def _add_row_flags(add: Callable[..., Any]) -> None:
    """Add the flags that say what a row of the input becomes."""
    add(
        "--too_long",
        choices=("truncate", "drop", "error", "split"),
        default="truncate",
        help="what to do with a conversation of more than seq_length tokens; split makes several rows "
        "of it (default: %(default)s)",
    )
    add(
        "--no_label",
        choices=("drop", "error", "keep"),
        default="drop",
        help="what to do with a row of which nothing is learnt (default: %(default)s)",
    )
    add(
        "--train_on",
        choices=("all", "last"),
        default="all",
        help="which of an assistant's turns are learnt (default: %(default)s)",
    )
    add(
        "--format",
        choices=("auto", "messages", "sharegpt", "alpaca", "adgen", "toolalpaca", "text"),
        default="auto",
        help="form of the rows (default: told by the keys of each)",
    )
    add(
        "--on_error",
        choices=("error", "skip"),
        default="error",
        help="whether a malformed row ends the work or is left out and counted (default: error)",
    )
    add(
        "--order",
        choices=("strict", "any"),
        default="strict",
        help="whether user and assistant have to take turns (default: strict)",
    )


@leaving_on_sigterm()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return its exit code."""
    arguments = build_parser().parse_args(argv)
    # Loaded here, so that --help answers at once.
    from mindformers.dataset.mindrecord import check_output
    from mindformers.tools.dataset_preprocess.report import counts, print_dropped, print_table

    begin = time.monotonic()
    files = input_files(arguments.input_glob)
    output = Path(arguments.output_file)
    check_output(output, arguments.file_partition, arguments.overwrite)
    tally = preprocess(files, output, arguments)
    print_dropped(tally)
    title = f"{output.name}: rows of {arguments.seq_length} tokens"
    print_table(title, counts(tally, time.monotonic() - begin))
    print(f"Transformed {tally.rows_written} records.")
    print(f"Transform finished, output files refer: {output}")
    return 0


def input_files(pattern: str) -> list[Path]:
    """Return the files that a path or a pattern names, sorted.

    Raises:
        DataError: If there is none.
    """
    if Path(pattern).is_file():
        return [Path(pattern)]
    matches = glob(pattern, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
    found = sorted(path for path in map(Path, matches) if path.is_file())
    if found:
        return found
    folder = Path(pattern).parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    raise DataError(
        "no file matches" if any(c in pattern for c in "*?[") else "there is no such file",
        where=f"--input_glob {pattern}",
        fix=did_you_mean(Path(pattern).name, names) or "correct the path or the pattern",
    )


def preprocess(files: Sequence[Path], output: Path, arguments: argparse.Namespace) -> Tally:
    """Write the data set and return what became of the rows.

    Args:
        files: Input files.
        output: The data set.
        arguments: What ``build_parser`` parsed.

    Raises:
        MindFormersError: If input, vocabulary or output cannot be used, or no row is left.
    """
    from mindformers.dataset.encoding import encode_files, worthwhile_workers
    from mindformers.dataset.mindrecord import mindrecord_writer
    from mindformers.dataset.row_encoder import EncodeOptions
    from mindformers.dataset.tally import Tally
    from mindformers.models.glm2.tokenizer_choice import tokenizer_class
    from mindformers.tools.dataset_preprocess.report import progress_bar

    source = Path(arguments.vocab_file)
    family = tokenizer_class(source, arguments.tokenizer_type)
    # Of a tokenizer.model alone, the family's own template is used.
    has_template = source.is_dir() or source.suffix == ".json"
    tokenizer = family.from_pretrained(source) if has_template else family(source)
    options = EncodeOptions(
        arguments.seq_length, arguments.too_long, arguments.on_error, arguments.order,
        arguments.no_label, arguments.train_on, arguments.format,
    )  # fmt: skip
    _preview(files, tokenizer, options, arguments.preview)
    tally = Tally()
    total_bytes = arguments.repeat * sum(file.stat().st_size for file in files)
    with progress_bar(output.name, total_bytes) as bar:
        chunks = encode_files(
            files,
            tokenizer,
            options,
            num_workers=arguments.num_workers or worthwhile_workers(total_bytes),
            repeat=arguments.repeat,
            on_bytes=bar.add_bytes,
        )
        with mindrecord_writer(
            output,
            num_partitions=arguments.file_partition,
            overwrite=arguments.overwrite,
            facts={"vocab_hash": tokenizer.vocab_hash},
        ) as writer:
            for chunk in chunks:
                writer.write_packed(chunk.rows)
                tally.add(chunk.tally)
                tally.rows_written = writer.num_rows
                bar.show_rows(tally.rows_read)
            if not tally.rows_written:
                raise DataError(
                    f"none of {tally.rows_read} rows is left to write",
                    where=str(files[0]),
                    fix=tally.advice(),
                )
    return tally


def _preview(
    files: Sequence[Path], tokenizer: Any, options: EncodeOptions, num_samples: int
) -> None:
    """Show the first rows, before the work begins."""
    from mindformers.dataset.encoding import encoded_samples
    from mindformers.tools.dataset_preprocess.preview import print_sample, trained_runs

    samples = islice(encoded_samples(files, tokenizer, options), max(0, num_samples))
    for number, (ids, labels) in enumerate(samples, start=1):
        note = f"{len(ids)} of {options.seq_length} tokens"
        print_sample(number, trained_runs(tokenizer, ids, labels), note)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(run_guarded(main))
