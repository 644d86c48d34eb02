"""``mindformers COMMAND``: run, convert, average, chat and launch under one name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from mindformers.errors import ConfigError, did_you_mean
from mindformers.guard import DEBUG_FLAG, FlagParser, run_guarded
from mindformers.version import __version__

COMMANDS = {
    "run": "finetune, evaluate or predict from a YAML file (the same as run_mindformer.py)",
    "convert": "weights between Hugging Face and this library (the same as convert_weight.py)",
    "average": "the averaged weights of a checkpoint (optimizer.ema_decay) as weights of their own",
    "chat": "talk to a model in the terminal, and let it use tools",
    "serve": "serve a model to OpenAI's clients and to a browser",
    "lm_eval": "lm-evaluation-harness with --model mindformers",
    "report": "the pages of a run, from its output folder",
    "launch": "start a script as several processes (the same as scripts/msrun_launcher.sh)",
}


def _usage() -> str:
    lines = [f"  {name:<8} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mindformers COMMAND [options]",
            "",
            *lines,
            "",
            "mindformers COMMAND --help says more",
        ]
    )


def average_command(argv: Sequence[str]) -> int:
    """Run ``mindformers average``."""
    parser = FlagParser(
        prog="mindformers average",
        description="Write the moving average of the weights that a checkpoint keeps.",
    )
    parser.add_argument("checkpoint", help="a step, or the output folder of a run (its newest)")
    parser.add_argument("output", help="folder of the new step, to be given to --load_checkpoint")
    arguments = parser.parse_args(argv)
    from mindformers.checkpoint.average import write_average

    print(write_average(arguments.checkpoint, arguments.output))
    return 0


def report_command(argv: Sequence[str]) -> int:
    """Run ``mindformers report``."""
    parser = FlagParser(
        prog="mindformers report", description="Write report.md and report.html of a run."
    )
    parser.add_argument("run_dir", help="the output_dir of a finetuning run")
    folder = parser.parse_args(argv).run_dir
    from mindformers.tasks.report import write_report

    print(write_report(folder))
    return 0


def _run(rest: Sequence[str]) -> int:
    from mindformers.cli.run import main as run_main

    return run_main(rest, prog="mindformers run")


def _convert(rest: Sequence[str]) -> int:
    from mindformers.cli.convert import main as convert_main

    return convert_main(rest, prog="mindformers convert")


def _chat(argv: Sequence[str]) -> int:
    from mindformers.cli.chat import chat_command

    return chat_command(argv)


def _serve(rest: Sequence[str]) -> int:
    from mindformers.cli.serve import serve_command

    return serve_command(rest)


def _lm_eval(rest: Sequence[str]) -> int:
    from mindformers.tasks.lm_harness import run_harness

    return run_harness(rest)


def _launch(rest: Sequence[str]) -> int:
    from mindformers.cli.launch import main as launch_main

    return launch_main(rest)


# Each loads what it needs when it is called.
_RUNNERS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": _run,
    "convert": _convert,
    "average": average_command,
    "chat": _chat,
    "serve": _serve,
    "lm_eval": _lm_eval,
    "report": report_command,
    "launch": _launch,
}


def dispatch(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names."""
    arguments = [a for a in (sys.argv[1:] if argv is None else argv) if a != DEBUG_FLAG]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    command, rest = arguments[0], arguments[1:]
    if command in _RUNNERS:
        return _RUNNERS[command](rest)
    raise ConfigError(
        f"no command is called {command!r}",
        allowed=", ".join(COMMANDS),
        fix=did_you_mean(command, COMMANDS),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``mindformers`` and ``python -m mindformers``; returns the exit code."""
    return run_guarded(dispatch, argv)
