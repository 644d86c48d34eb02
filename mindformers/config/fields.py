"""Value types that several sections share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _null_is_empty(value: Any) -> Any:
    return "" if value is None else value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # True equals 1, so a Literal of numbers would take it
        raise ValueError(f"found {value}; allowed: a number or a name")
    return value


def named_type(default: str, aliases: Mapping[str, str]) -> Callable[[Any], str]:
    """Return what tells the full name of the class that a section's ``type`` asks for.

    Args:
        default: The class of a section without ``type``.
        aliases: Other name -> full name.
    """

    def name_of(value: Any) -> str:
        is_plain = isinstance(value, dict)
        name = value.get("type", default) if is_plain else getattr(value, "type", "")
        return aliases.get(name, name) if isinstance(name, str) else repr(name)

    return name_of


Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
# A path or a name that may be left empty; null means empty, so readers test one thing.
OptionalText = Annotated[str, BeforeValidator(_null_is_empty)]
NO_BOOL = BeforeValidator(_no_bool)
