"""The flags of ``convert_weight.py`` that round weights."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers.errors import ConfigError

if TYPE_CHECKING:
    from mindformers.checkpoint.export import ExportOptions

KINDS = ("int8", "int4")
_ONLY_WITH = (
    "group_size",
    "asymmetric",
    "calibration",
    "eval_data",
    "quantization_head",
    "quantization_embedding",
)


def add_quantize_flags(add: Callable[..., Any]) -> None:
    """Declare the flags; ``add`` is ``add_argument`` of the parser."""
    add("--quantization", choices=KINDS, help="round the weights to int8 or int4")
    add("--group_size", type=int, help="columns that share a scale; default: 64 (int8), 32 (int4)")
    add("--asymmetric", action="store_true", default=None, help="int4: a zero point for each group")
    add(
        "--calibration",
        help="text or conversations (.txt, .json, .jsonl) to round with, so that the outputs on them change least",
    )
    add("--eval_data", help="text or conversations to measure the perplexity on, before and after")
    add("--quantization_head", choices=(*KINDS, "none"), help="the output layer; default: int8")
    add("--quantization_embedding", choices=(*KINDS, "none"), help="the embedding; default: none")


def check_quantize_flags(args: argparse.Namespace) -> None:
    """Refuse flags that cannot go together.

    Raises:
        ConfigError: Naming the flag.
    """
    if args.quantization is None:
        for name in _ONLY_WITH:
            if getattr(args, name) is not None:
                raise ConfigError("given without --quantization", where=f"--{name}")
        return
    for name in ("reversed", "concat", "dtype"):
        if getattr(args, name):
            raise ConfigError(f"given with --quantization {args.quantization}", where=f"--{name}")
    if args.asymmetric and args.quantization != "int4":
        raise ConfigError("given with --quantization int8", where="--asymmetric", allowed="int4")
    for name in ("calibration", "eval_data"):
        path = getattr(args, name)
        if path is not None and not Path(path).is_file():
            raise ConfigError(f"no such file: {path}", where=f"--{name}")


def run_quantize(args: argparse.Namespace, options: ExportOptions) -> Path:
    """Round the weights as the flags say, and print the perplexities; return the output path."""
    from mindformers.models.glm2.convert_quantized import QuantizeOptions
    from mindformers.tasks.quantize import QuantizeData, quantize

    wanted = QuantizeOptions(
        args.quantization,
        args.group_size,
        not args.asymmetric,
        args.quantization_head or "int8",
        args.quantization_embedding or "none",
    )
    data = QuantizeData(args.calibration, args.eval_data)
    found = quantize(
        args.input_path, args.output_path, wanted, data, config=args.config, options=options
    )
    if found:
        change = found["after"] / found["before"] - 1
        print(
            f"perplexity: {found['before']:.4f} before, {found['after']:.4f} after ({change:+.2%})"
        )
    return Path(args.output_path)
