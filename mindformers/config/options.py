"""Arguments of upstream read for compatibility: neutral values pass, others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers.errors import ConfigError, did_you_mean
from mindformers.logger import warn_once

Neutral = Mapping[str, tuple[Any, ...]]  # option -> the values that change nothing; empty: any


def refuse_options(owner: str, given: Mapping[str, Any], neutral: Neutral) -> None:
    """Accept options that change nothing, refuse the others.

    Args:
        owner: The class the options were given to, for the message.
        given: The options.
        neutral: Option name -> the values at which it has no effect. Empty: any value.

    Raises:
        ConfigError: If an option is unknown, or asks for something that is not implemented.
    """
    for name in without_options(owner, given, neutral):
        raise ConfigError(
            "no such argument", where=f"{owner}.{name}", fix=did_you_mean(name, neutral)
        )


def without_options(owner: str, given: Mapping[str, Any], neutral: Neutral) -> dict[str, Any]:
    """Return the arguments that are none of the options, once these are found to be neutral.

    Args:
        owner: The function they were given to, for the message.
        given: Its keyword arguments.
        neutral: As in ``refuse_options``.

    Raises:
        ConfigError: If an option asks for something that is not implemented.
    """
    for name in given.keys() & neutral.keys():
        value = given[name]
        if neutral[name] and not any(value is each or value == each for each in neutral[name]):
            raise ConfigError(
                f"{value!r:.80} is not implemented",
                where=f"{owner}.{name}",
                allowed=" or ".join(repr(choice) for choice in neutral[name]),
            )
    return {name: value for name, value in given.items() if name not in neutral}


def say_without_effect(owner: str, given: Mapping[str, Any]) -> None:
    """Say once that arguments have no effect; those that are None, False or empty go unmentioned."""
    for name, value in given.items():
        if value is not None and value is not False and value != "" and value != []:
            warn_once("%s: %s has no effect here", owner, name)
