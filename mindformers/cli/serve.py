"""``mindformers serve``."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence

from mindformers.extras import import_extra
from mindformers.generation.request import POOLINGS
from mindformers.generation.scheduler import EngineSettings
from mindformers.guard import FlagParser
from mindformers.serving.settings import Limits, ServerSettings

_ENGINE = {
    "max_running": "answers that go on at once",
    "max_waiting": "requests that may wait; more are refused",
    "step_tokens": "tokens of a step: how long prompts hold up the answers under way",
}
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
    parser.add_argument(
        "--prompt_lookup",
        metavar="N",
        type=int,
        help="tokens guessed at a time from the text so far, as 7: what repeats comes faster",
    )
    parser.add_argument("--served_model_name", help="the model's name; default: the folder's")
    parser.add_argument(
        "--pooling",
        default=ServerSettings().pooling,
        choices=POOLINGS,
        help="what becomes a text's embedding: the mean of its tokens' hidden states, or the last one "
        "(default: %(default)s)",
    )
    _add_access(parser)
    _add_limits(parser)
    _add_engine(parser)
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
        shown = f"{default:g}" if isinstance(default, float) else default
        group.add_argument(
            f"--{name}", type=type(default), default=default, help=f"{meaning} (default: {shown})"
        )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    defaults = EngineSettings()
    group = parser.add_argument_group("what all requests may take at once")
    for name, meaning in _ENGINE.items():
        group.add_argument(
            f"--{name}",
            type=int,
            default=getattr(defaults, name),
            help=f"{meaning} (default: %(default)s)",
        )
    group.add_argument(
        "--cache_tokens",
        type=int,
        help="tokens the cache of keys and values has room for (default: as memory allows)",
    )
    group.add_argument(
        "--no_prefix_cache",
        dest="prefix_cache",
        action="store_false",
        help="read every prompt whole, also where it begins like an earlier one",
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
        pooling=options["pooling"],
        prompt_lookup=options["prompt_lookup"],
        limits=limits,
    )
    serve(
        options["model_dir"],
        settings,
        name=options["served_model_name"],
        device_target=options["device_target"],
        quantization=options["quantization"],
        cache_tokens=options["cache_tokens"],
        engine=EngineSettings(
            prefix_cache=options["prefix_cache"], **{name: options[name] for name in _ENGINE}
        ),
    )
    return 0
