"""``convert_weight.py``: Hugging Face weights to MindFormers and back, and fusing split weights."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers.cli.quantize_flags import (
    add_quantize_flags,
    check_quantize_flags,
    run_quantize,
)
from mindformers.cli.start import loading_modules
from mindformers.errors import ConfigError, did_you_mean
from mindformers.guard import DEBUG_FLAG, FlagParser, leaving_on_sigterm, truth

if TYPE_CHECKING:
    from mindformers.checkpoint.export import ExportOptions

MODELS = ("glm4", "glm3", "glm2", "glm-n")  # one family; glm-n is upstream's key for it
DTYPES = ("fp32", "fp16", "bf16")

_EXAMPLES = """examples:
  Hugging Face directory to one file, float32 as upstream writes it:
    convert_weight.py --model glm4 --input_path glm-4-9b --output_path glm4.ckpt --config run.yaml
  Hugging Face directory to sharded safetensors in bfloat16, no YAML needed:
    convert_weight.py --model glm4 --input_path glm-4-9b --output_path glm4_ms --dtype bf16
  Back to Hugging Face, types kept:
    convert_weight.py --model glm4 --reversed --input_path glm4_ms --output_path glm4_hf
  Round to int4, with text to round for and to measure on:
    convert_weight.py --model glm4 --input_path glm-4-9b --output_path glm4_int4 --quantization int4 \\
        --calibration rows.json --eval_data book.txt
  Fuse split weights, of one file or of rank_X folders:
    convert_weight.py --model glm4 --concat --input_path split.ckpt --output_path fused.ckpt
"""


def build_parser(prog: str = "convert_weight.py") -> argparse.ArgumentParser:
    """Return the parser of the command; older spellings of the paths are read but not shown."""
    parser = FlagParser(
        prog=prog,
        description="Convert GLM-4 weights between Hugging Face and MindFormers.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, help=f"model family: {', '.join(MODELS)}")
    add("--input_path", help="directory or file to convert")
    add("--output_path", help="folder, .safetensors file or .ckpt file to write")
    _add_form_flags(add)
    _add_output_flags(add)
    add_quantize_flags(add)
    add("--no_verify", action="store_true", help="do not compare the sha256 of a step folder")
    add(DEBUG_FLAG, action="store_true", help="show where an error was raised")
    for old in ("torch_ckpt_path", "mindspore_ckpt_path", "ms_not_concat_ckpt_path", "config_path"):
        add(f"--{old}", help=argparse.SUPPRESS)
    return parser


def _add_form_flags(add: Callable[..., Any]) -> None:
    """Add the flags that say what the weights become."""
    add("--reversed", action="store_true", help="MindFormers to Hugging Face")
    add(
        "--dtype",
        help="fp32, fp16 or bf16; default: fp32 to MindFormers (as upstream), the input's own type "
        "with --reversed",
    )
    add("--config", help="YAML of a run; default: the config.json beside the input")
    add(
        "--concat",
        nargs="?",
        const=True,
        default=False,
        type=truth,
        metavar="True",
        help="fuse wq, wk, wv and dense_left, dense_right of MindFormers weights",
    )
    add(
        "--layout",
        default="glm",
        choices=("glm", "chatglm"),
        help="with --reversed: names of the Hugging Face library (glm, default) or of the original "
        "repositories (chatglm)",
    )


def _add_output_flags(add: Callable[..., Any]) -> None:
    """Add the flags that say how the output is written."""
    add(
        "--output_format",
        choices=("safetensors", "ckpt"),
        help="default: by the suffix of --output_path; safetensors in a folder",
    )
    add(
        "--tokenizer",
        help="vocabulary file, or a folder that holds one, to put into an output folder; default: "
        "the one beside the input",
    )
    add("--max_shard_size", default="5GB", help="largest file in a folder (default 5GB)")
    add("--force", "--overwrite", action="store_true", help="replace an output that exists")


def _apply_old_names(args: argparse.Namespace) -> None:
    """Let the paths' older spellings stand in for the new ones."""
    ours, theirs = args.mindspore_ckpt_path, args.torch_ckpt_path
    before, after = (ours, theirs) if args.reversed else (theirs, ours)
    if args.concat and args.ms_not_concat_ckpt_path:
        before = args.ms_not_concat_ckpt_path
    args.input_path = before or args.input_path
    args.output_path = after or args.output_path
    args.config = args.config_path or args.config


def _check(args: argparse.Namespace) -> None:
    """Refuse flags that cannot go together.

    Raises:
        ConfigError: Naming the flag.
    """
    from mindformers.checkpoint.saving import parse_size

    if args.model not in MODELS:
        raise ConfigError(
            f"unknown model {args.model!r}",
            where="--model",
            allowed=", ".join(MODELS),
            fix=did_you_mean(args.model, MODELS),
        )
    for flag in ("input_path", "output_path"):
        if not getattr(args, flag):
            raise ConfigError("missing", where=f"--{flag}")
    if args.dtype is not None and args.dtype not in DTYPES:
        raise ConfigError(
            f"unknown type {args.dtype!r}", where="--dtype", allowed=", ".join(DTYPES)
        )
    if args.concat and args.reversed:
        raise ConfigError("given with --reversed", where="--concat", fix="run them one by one")
    if args.concat and args.dtype:
        raise ConfigError("given with --concat, which keeps types", where="--dtype")
    check_quantize_flags(args)
    parse_size(args.max_shard_size, where="--max_shard_size")
    _check_paths(args)


def _check_paths(args: argparse.Namespace) -> None:
    """Refuse paths that are missing or cannot go together.

    Raises:
        ConfigError: Naming the flag.
    """
    from mindformers.checkpoint.export import is_folder

    if args.config is not None and not Path(args.config).is_file():
        raise ConfigError(f"no such file: {args.config}", where="--config")
    if args.tokenizer is not None and not Path(args.tokenizer).exists():
        raise ConfigError(f"no such file or folder: {args.tokenizer}", where="--tokenizer")
    if args.tokenizer is not None and not _has_vocabulary(Path(args.tokenizer)):
        raise ConfigError(
            f"{args.tokenizer} holds no tokenizer.model and no tokenizer.json",
            where="--tokenizer",
            fix="give the file, or the folder of the model",
        )
    if args.tokenizer is not None and not is_folder(Path(args.output_path)):
        raise ConfigError(
            f"the output {args.output_path} is one file, which holds no tokenizer",
            where="--tokenizer",
            fix="give a folder as --output_path, or leave --tokenizer out",
        )
    if args.force and Path(args.input_path).resolve() == Path(args.output_path).resolve():
        raise ConfigError(
            f"{args.output_path} is the input itself",
            where="--output_path",
            fix="choose another path; the input stays as it is",
        )


def _has_vocabulary(path: Path) -> bool:
    names = ("tokenizer.model", "tokenizer.json")
    return path.is_file() or any((path / name).is_file() for name in names)


def _run(args: argparse.Namespace, options: ExportOptions) -> Path:
    if args.concat:
        from mindformers.models.glm2.convert_weight import convert_to_qkv_concat

        return convert_to_qkv_concat(args.input_path, args.output_path, options=options)
    if args.quantization:
        return run_quantize(args, options)
    if args.reversed:
        from mindformers.models.glm2.convert_reversed import convert_ms_to_pt

        return convert_ms_to_pt(
            args.input_path,
            args.output_path,
            args.dtype,
            config=args.config,
            layout=args.layout,
            options=options,
        )
    from mindformers.models.glm2.convert_weight import convert_pt_to_ms

    return convert_pt_to_ms(
        args.input_path, args.output_path, args.dtype, config=args.config, options=options
    )


def _options(args: argparse.Namespace, **progress: Callable[[int], None]) -> ExportOptions:
    from mindformers.checkpoint.export import ExportOptions

    return ExportOptions(
        output_format=args.output_format,
        force=args.force,
        max_shard_size=args.max_shard_size,
        verify=not args.no_verify,
        tokenizer=args.tokenizer,
        **progress,
    )


@contextmanager
def _options_with_progress(args: argparse.Namespace) -> Iterator[ExportOptions]:
    """Yield the export options; on a terminal a progress bar follows the bytes written."""
    if not sys.stderr.isatty():  # the bar's modules take longer to load than all of ours
        yield _options(args)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeLeft())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("writing", total=None)
        yield _options(
            args,
            start=lambda total: bar.update(task, total=total),
            progress=lambda count: bar.advance(task, count),
        )


@leaving_on_sigterm()
def main(argv: Sequence[str] | None = None, *, prog: str = "convert_weight.py") -> int:
    """Convert as the flags say; return 0. The help calls the command ``prog``.

    Raises:
        MindFormersError: For every mistake in the flags or the files.
    """
    args = build_parser(prog).parse_args(argv)
    _apply_old_names(args)
    with loading_modules():
        _check(args)  # loads most of what converting takes
    from mindformers.logger import setup_console_logging

    setup_console_logging(logging.INFO)
    with _options_with_progress(args) as options:
        output = _run(args, options)
    print(f"Convert finished, the output is saved to {output}.")
    return 0
