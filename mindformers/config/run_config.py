"""``RunConfig``: every setting of a run, typed and frozen. Loaded once, then only read."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from mindformers.config.loader import Document, load_yaml
from mindformers.config.overrides import Patch, apply_patches
from mindformers.config.report import Problem, problems_of, report
from mindformers.config.rules import broken_rules
from mindformers.config.run_keys import RunKeys
from mindformers.config.yaml_text import KeyPath

_WITHOUT_RULES = {"rules": False}
_NOTHING = object()


class RunConfig(RunKeys):
    """The whole file. Every key may be left out; what a run needs is checked when it starts."""

    @model_validator(mode="after")
    def _keep_rules(self, info: ValidationInfo) -> RunConfig:
        problems = [] if info.context == _WITHOUT_RULES else broken_rules(self)
        if problems:
            text = "; ".join(f"{'.'.join(map(str, each.path))}: {each.found}" for each in problems)
            raise PydanticCustomError("rules", "{text}", {"text": text, "problems": problems})
        return self


def load_run_config(path: str | Path, patches: Iterable[Patch] = ()) -> RunConfig:
    """Read a YAML file, apply the patches, and bind the result.

    Args:
        path: The file; its ``base_config`` is followed.
        patches: Changes from the command line, in order.

    Raises:
        ConfigError: One report of everything that is wrong.
    """
    return bind_run_config(apply_patches(load_yaml(path), patches))


def bind_run_config(document: Document) -> RunConfig:
    """Return the typed, checked form of a document.

    Raises:
        ConfigError: One report of every problem: unknown keys, wrong values, broken rules.
    """
    data = _with_training_set(document.data)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        problems = problems_of(error, RunConfig, data)
    raise report([*problems, *_later_problems(data, problems)], document)


def _with_training_set(data: dict[str, Any]) -> dict[str, Any]:
    """Take the data set from the task when the section itself is left out."""
    completed = dict(data)
    for name in ("train_dataset", "eval_dataset"):
        task = data.get(f"{name}_task")
        if data.get(name) is None and isinstance(task, dict) and task.get("dataset_config"):
            completed[name] = copy.deepcopy(task["dataset_config"])
    return completed


def _later_problems(data: dict[str, Any], problems: Sequence[Problem]) -> list[Problem]:
    """Return what shows only when the wrong values are gone, so that one report holds it too.

    A check that reads a value which is wrong itself is left out: its answer would mean nothing.
    """
    if any(problem.count > 1 for problem in problems):
        return []  # the list is cut off already
    rest = copy.deepcopy(data)
    wrong = [problem.path for problem in problems]
    later: list[Problem] = []
    for path in wrong:
        _remove(rest, path)
    while True:
        try:
            config = RunConfig.model_validate(rest, context=_WITHOUT_RULES)
        except ValidationError as error:
            found = problems_of(error, RunConfig, rest)
            later += [each for each in found if not each.mentions(wrong)]
            wrong += [each.path for each in found]
            removed = [_remove(rest, each.path) for each in found]
            if not any(removed):
                return later
        else:
            return later + broken_rules(config, unclear=wrong)


def _remove(data: dict[str, Any], path: KeyPath) -> bool:
    """Remove the value at a path and tell whether there was one.

    A list goes as a whole, and a missing key takes its section along.
    """
    holder: Any = data
    for position, key in enumerate(path):
        child = holder.get(key)
        following = path[position + 1] if position + 1 < len(path) else None
        if not isinstance(child, dict) or following not in child:
            return holder.pop(key, _NOTHING) is not _NOTHING
        holder = child
    return False
