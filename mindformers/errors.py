"""Errors a user can cause, each one line: where, what was found, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MindFormersError(Exception):
    """A user's mistake. The command line prints it as one message and exits with ``exit_code``.

    Args:
        found: What was found, in the user's words.
        where: File and line, key path or tensor name the fault sits at.
        allowed: What would have been accepted.
        fix: What to do about it.
    """

    exit_code = 2

    def __init__(self, found: str, *, where: str = "", allowed: str = "", fix: str = "") -> None:
        self.found, self.where, self.allowed, self.fix = found, where, allowed, fix
        text = f"{where}: {found}" if where else found
        if allowed:
            text += f"; allowed: {allowed}"
        if fix:
            text += f"; {fix}"
        super().__init__(text)


class ConfigError(MindFormersError):
    """A YAML file, a flag or a configuration value is wrong."""


class CheckpointError(MindFormersError):
    """Weights or training state on disk cannot be used."""


class DataError(MindFormersError):
    """Training or prediction data cannot be used."""


class TokenizerError(MindFormersError):
    """A vocabulary, a chat template or a token id cannot be used."""


class GenerationError(MindFormersError):
    """A prompt or a generation setting cannot be used, or the model produced no usable logits."""


class EngineBusyError(GenerationError):
    """More was asked at once than may wait; ``retry_after`` (seconds) says when to come again."""

    def __init__(self, found: str, *, retry_after: float, where: str = "", fix: str = "") -> None:
        super().__init__(found, where=where, fix=fix)
        self.retry_after = retry_after


class FormError(GenerationError):
    """An answer cannot be held to the form that was asked for: a schema says too much."""


class ToolError(MindFormersError):
    """A tool could not do what it was asked; where a model asked, it is told so as the result."""


class TrainingError(MindFormersError):
    """Training had to stop: a loss or gradient is not finite, or a step cannot go on."""


class DeviceError(MindFormersError):
    """The device, MindSpore or Python on this machine cannot run what was asked for."""


class MissingExtraError(MindFormersError):
    """An optional dependency is not installed; the message holds the pip line."""


def nearest(name: str, choices: Iterable[str], count: int = 3) -> list[str]:
    """Return up to ``count`` members of ``choices`` spelled most like ``name``, best first."""
    pool = [str(choice) for choice in choices]
    lowered = {choice.lower(): choice for choice in reversed(pool)}
    close = difflib.get_close_matches(str(name).lower(), list(lowered), n=count, cutoff=0.6)
    return [lowered[choice] for choice in close]


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ``"did you mean 'a' or 'b'?"``, or an empty string when nothing is near."""
    near = nearest(name, choices)
    return f"did you mean {' or '.join(repr(choice) for choice in near)}?" if near else ""
