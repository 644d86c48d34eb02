"""``mindformers serve``."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence

from mindformers.extras import import_extra
from mindformers.guard import FlagParser
from mindformers.serving.settings import Limits, ServerSettings

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's flags."""
    parser = FlagParser(
        prog="mindformers serve",
        description="Serve a model to OpenAI's clients and to a browser.",
    )
    parser.add_argument("model_dir", help="a Hugging Face directory or one saved by this library")
    parser.add_argument("--device_target", default="CPU", choices=("CPU", "Ascend"))
    parser.add_argument(
        "--quantization", choices=("int8", "int4"), help="round the weights when they are loaded"
    )
    parser.add_argument("--served_model_name", help="the model's name; default: the folder's")
    _add_access(parser)
    _add_limits(parser)
    return parser


def _add_access(parser: argparse.ArgumentParser) -> None:
    defaults = ServerSettings()
    group = parser.add_argument_group("who can reach it")
    group.add_argument(
        "--host", default=defaults.host, help="address to listen at (default: %(default)s)"
    )
    group.add_argument(
        "--port", type=int, default=defaults.port, help="0: any free one (default: %(default)s)"
    )
    group.add_argument(
        "--api_key",
        action="append",
        default=[],
        help="a key that requests need; others of this machine can see it, so better a file",
    )
    group.add_argument(
        "--api_key_file", action="append", default=[], help="a file of keys, one a line"
    )
    group.add_argument(
        "--allow_no_key",
        action="store_true",
        help="let everybody in who can reach another address than this machine's own",
    )
    group.add_argument(
        "--cors_origin",
        action="append",
        default=[],
        help="a web page's origin that may call from a browser, as https://example.org",
    )
    group.add_argument(
        "--drain_timeout",
        type=float,
        default=defaults.drain_timeout,
        help="seconds running answers get after SIGTERM (default: %(default)g)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what one request may take")
    for name, (default, meaning) in Limits.meanings().items():
        group.add_argument(
            f"--{name}",
            type=type(default),
            default=default,
            help=f"{meaning} (default: %(default)g)",
        )


def serve_command(argv: Sequence[str]) -> int:
    """Run ``mindformers serve``."""
    options = vars(build_parser().parse_args(argv))
    for package in _PACKAGES:
        import_extra(package, "serving", "serve")
    from mindformers.logger import setup_console_logging
    from mindformers.serving.auth import read_keys
    from mindformers.serving.serve import serve

    setup_console_logging(logging.INFO)
    keys = read_keys(options["api_key"], options["api_key_file"], os.environ)
    limits = Limits(**{name: options[name] for name in Limits.meanings()})
    settings = ServerSettings(
        host=options["host"],
        port=options["port"],
        api_keys=keys,
        allow_no_key=options["allow_no_key"],
        cors_origins=tuple(options["cors_origin"]),
        drain_timeout=options["drain_timeout"],
        limits=limits,
    )
    serve(
        options["model_dir"],
        settings,
        name=options["served_model_name"],
        device_target=options["device_target"],
        quantization=options["quantization"],
    )
    return 0
