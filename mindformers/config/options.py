"""Arguments of upstream classes read for compatibility: neutral values pass, others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers.errors import ConfigError, did_you_mean


def refuse_options(
    owner: str, given: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]
) -> None:
    """Accept options that change nothing, refuse the others.

    Args:
        owner: The class the options were given to, for the message.
        given: The options.
        neutral: Option name -> the values at which it has no effect. Empty: any value.

    Raises:
        ConfigError: If an option is unknown, or asks for something that is not implemented.
    """
    for name, value in given.items():
        if name not in neutral:
            raise ConfigError(
                "no such argument", where=f"{owner}.{name}", fix=did_you_mean(name, neutral)
            )
        if neutral[name] and value not in neutral[name]:
            raise ConfigError(
                f"{value!r} is not implemented",
                where=f"{owner}.{name}",
                allowed=" or ".join(repr(choice) for choice in neutral[name]),
            )
