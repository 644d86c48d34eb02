"""What every section of a run's configuration has in common: frozen, typed, no unknown keys."""

from __future__ import annotations

from typing import Any

from pydantic import AfterValidator, BaseModel, ConfigDict

FILLED_IN = "setting what the run fills in"  # of keys that upstream's builders set themselves


class Section(BaseModel):
    """A frozen group of settings. An unknown key or a value of another type is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


def only(*allowed: Any, feature: str) -> AfterValidator:
    """Return a validator for a key we read but do not implement: it binds at its neutral values only.

    Args:
        allowed: The values at which the key has no effect.
        feature: What another value would ask for, in the user's words.
    """

    def check(value: Any) -> Any:
        if value not in allowed:
            names = " or ".join(repr(choice) for choice in allowed)
            raise ValueError(f"{feature} is not implemented; allowed: {names}")
        return value

    return AfterValidator(check)
