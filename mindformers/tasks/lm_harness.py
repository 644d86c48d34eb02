"""lm-evaluation-harness: the command that runs it with our models known to it.

The harness finds models by name in a table of its own and has no way to announce others from outside, so
ours is put there before it starts. Its other packages are loaded only then.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mindformers.errors import ConfigError, MissingExtraError
from mindformers.extras import import_extra

NAME = "mindformers"


def register() -> None:
    """Make ``--model mindformers`` known to the harness in this process; a second call changes nothing.

    Raises:
        MissingExtraError: If the harness is not installed.
    """
    registry = import_extra("lm_eval.api.registry", "lm-evaluation-harness", "harness")
    import_extra("lm_eval.models", "lm-evaluation-harness", "harness")  # fills the table
    if NAME not in registry.MODEL_REGISTRY:
        from mindformers.tasks.lm_harness_model import MindFormersLM  # needs the harness

        registry.register_model(NAME)(MindFormersLM)


def run_harness(argv: Sequence[str]) -> int:
    """Run the harness's own command line with our model in its table; returns the exit code.

    Raises:
        MissingExtraError: If the harness is not installed.
    """
    register()
    main = import_extra("lm_eval.__main__", "lm-evaluation-harness", "harness")
    before, sys.argv = sys.argv, ["lm_eval", *argv]
    try:
        main.cli_evaluate()
    except ImportError as error:
        raise MissingExtraError(
            f"lm-evaluation-harness cannot be loaded: {error}",
            fix="run: pip install 'mindformers[harness]'",
        ) from error
    except ValueError as error:
        if "Tasks not found" not in str(error):
            raise
        raise ConfigError(
            str(error), where="--tasks",
            fix="name the folder of a task's file with --include_path; --tasks list shows what there is",
        ) from error  # fmt: skip
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv = before
    return 0
