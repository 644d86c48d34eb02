"""``run_mindformer.py``: flags and a YAML file to one of the tasks.

Nothing here loads MindSpore, so ``--help`` and every mistake in a file are answered at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mindformers.cli.flags import (
    CONFIG,
    FLAGS,
    OPTIONS,
    PLAN_FLAGS,
    REGISTER_PATH,
    all_spellings,
    build_parser,
)
from mindformers.cli.start import loading_modules
from mindformers.errors import ConfigError
from mindformers.logger import setup_console_logging
from mindformers.parallel import heartbeat
from mindformers.parallel.runtime import check_machine

_REPOSITORY = Path(__file__).resolve().parents[2]
_MODES = "train, finetune, eval, predict or plan"
_PLAN = "plan"  # a command, not a key: the file's own run_mode says what is planned


def main(argv: Sequence[str] | None = None, *, prog: str = "run_mindformer.py") -> int:
    """Read the flags and the file, and run the task; returns the exit code.

    Args:
        argv: Arguments; None: those of the process.
        prog: What the help calls the command.

    Raises:
        ConfigError: If a flag, the file or a path in it is wrong; nothing has been started then.
        DeviceError: If this machine cannot start the run.
    """
    arguments, rest = build_parser(prog).parse_known_args(argv)
    heartbeat.start()
    setup_console_logging()
    with loading_modules():
        config = load(arguments, rest)
    if arguments.run_mode == _PLAN:
        return _plan(config, arguments)
    check_machine(config.context.device_target, config.use_parallel)
    _announce(config)
    return _task(config.run_mode)(config)


def load(arguments: argparse.Namespace, rest: Sequence[str] = ()) -> Any:
    """Return the ``RunConfig`` that the flags and their YAML file describe.

    Raises:
        ConfigError: If a flag, the file or a path in it is wrong.
    """
    if not getattr(arguments, CONFIG):
        raise ConfigError(
            "--config is missing",
            where="command line",
            fix="add --config with a YAML file, as configs/glm4/finetune_glm4_tiny_cpu.yaml",
        )
    if getattr(arguments, REGISTER_PATH):
        raise ConfigError(
            "loading code from a folder is refused",
            where=f"command line: --{REGISTER_PATH}",
            fix="register the class in a script of yours with MindFormerRegister.register",
        )
    from mindformers.config.loader import load_yaml
    from mindformers.config.overrides import apply_patches
    from mindformers.config.preflight import check_run
    from mindformers.config.run_config import bind_run_config

    is_plan = arguments.run_mode == _PLAN
    given = [name for name, *_ in PLAN_FLAGS if getattr(arguments, name) is not None]
    if given and not is_plan:
        raise ConfigError("has an effect with --run_mode plan only",
                          where=f"command line: --{given[0]}", fix="add --run_mode plan")  # fmt: skip
    path = find_config(getattr(arguments, CONFIG))
    document = apply_patches(load_yaml(path), patches(arguments, rest))
    config = bind_run_config(document)
    if is_plan:  # paths, weights and a device may all be missing
        return config
    _task(config.run_mode)
    check_run(config, document)
    return config


def patches(arguments: argparse.Namespace, rest: Sequence[str] = ()) -> list[Any]:
    """Return what the flags change, in order: named flags, ``--options``, then dotted ones."""
    from mindformers.config.overrides import (
        Patch,
        patches_from_arguments,
        patches_from_options,
        split_path,
    )

    found = [
        Patch(
            split_path(flag.key, flag.name),
            getattr(arguments, flag.name),
            f"command line: --{flag.name}",
        )
        for flag in FLAGS
        if getattr(arguments, flag.name) not in (None, _PLAN if flag.key == "run_mode" else None)
    ]
    found += patches_from_options(getattr(arguments, OPTIONS))
    return found + patches_from_arguments(rest, all_spellings())


def find_config(name: str) -> Path:
    """Return the file: a relative name is looked up here, then in the repository's folder."""
    path = Path(name)
    if path.is_absolute() or path.exists():
        return path
    beside = _REPOSITORY / path
    return beside if beside.exists() else path


def _task(run_mode: str | None) -> Callable[[Any], int]:
    """Return the task of a mode; its module is loaded when it is called.

    Raises:
        ConfigError: If there is no such task.
    """
    if run_mode in ("train", "finetune"):
        return _finetune
    if run_mode == "eval":
        return _evaluate
    if run_mode == "predict":
        return _predict
    found = "no run_mode is given" if run_mode is None else f"{run_mode} is not implemented"
    raise ConfigError(found, where="run_mode", allowed=_MODES, fix="add --run_mode")


def _announce(config: Any) -> None:
    from mindformers.tasks.plan_check import announce_memory

    announce_memory(config)


def _finetune(config: Any) -> int:
    with loading_modules():
        from mindformers.tasks.finetune import finetune
    return finetune(config).exit_code


def _evaluate(config: Any) -> int:
    with loading_modules():
        from mindformers.parallel.runtime import launched_rank
        from mindformers.tasks.evaluate import evaluate, results_text
    results = evaluate(config)
    if launched_rank() == 0:
        print(results_text(results).replace(" | ", "\n"))
    return 0


def _predict(config: Any) -> int:
    with loading_modules():
        from mindformers.tasks.predict import predict
    predict(config)
    return 0


def _plan(config: Any, arguments: argparse.Namespace) -> int:
    with loading_modules():
        from mindformers.tasks.plan import plan
        from mindformers.tasks.plan_report import show
    show(plan(config, **{name: getattr(arguments, name) for name, *_ in PLAN_FLAGS}), sys.stdout)
    return 0
