"""Write docs/config_reference.md from the typed sections; ``--check`` only compares."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mindformers.checkpoint.atomic import write_text
from mindformers.cli.flags import FLAGS
from mindformers.config.neutral_keys import NeutralKeys
from mindformers.config.run_config import RunConfig
from mindformers.config.schema import keys_of, sections_in, types_of
from mindformers.config.section import Section

TARGET = Path(__file__).resolve().parents[1] / "docs" / "config_reference.md"
HEAD = """# Configuration reference

Every key of a YAML file, with its type, its default and its meaning. This page is generated from
the code by `python scripts/make_config_reference.py`.

- An unknown key, a key set twice or a value of another type is an error that names file and line.
- Scalars follow YAML 1.2: `1e-6` is a number; `true`/`True` and `false`/`False` are the only
  truth values; `None` is read as null.
- `base_config: other.yaml` (or a list) inherits from other files, key by key.
- Any key can be set on the command line: `--runner_config.epochs 3`,
  `--callbacks.1.save_checkpoint_steps 50`, or `--options runner_config.epochs=3 seed=1`.
- A key whose meaning ends in "not implemented" is read for compatibility and binds at its default.
"""
_NAMES = {int: "whole number", float: "number", str: "text", bool: "true/false", Any: "any",
          NoneType: "null", dict: "section"}  # fmt: skip
_SIGNS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))


def main(argv: list[str] | None = None) -> int:
    """Write the page, or tell whether it is current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 when the page is not current")
    text = render()
    if parser.parse_args(argv).check:
        current = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
        if current != text:
            print(f"{TARGET.name} is not current; run: python scripts/make_config_reference.py")
            return 1
        return 0
    TARGET.parent.mkdir(exist_ok=True)
    print(write_text(TARGET, text))
    return 0


def render() -> str:
    """Return the page."""
    parts = [HEAD, "## Flags of run_mindformer.py\n", flag_table()]
    parts += ["## Top level\n", f"{summary(RunConfig)}\n", table(RunConfig, NeutralKeys)]
    for title, section in chapters(RunConfig):
        parts += [f"## {title}\n", f"{summary(section)}\n", table(section)]
    parts += ["## Top-level keys without effect\n", f"{summary(NeutralKeys)}\n", table(NeutralKeys)]
    return "\n".join(parts)


def flag_table() -> str:
    """Return the named flags and the keys they set."""
    rows = ["| flag | key | meaning |", "|---|---|---|"]
    for flag in FLAGS:
        names = ", ".join(f"`--{name}`" for name in (flag.name, *flag.aliases))
        rows.append(f"| {names} | `{flag.key}` | {flag.help} |")
    return "\n".join(rows) + "\n"


def chapters(root: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    """Yield a title and a section for each section below ``root``, nearest first, none twice."""
    waiting = [("", root)]
    seen: set[type[Section]] = set()
    while waiting:
        prefix, section = waiting.pop(0)
        for key, field in keys_of(section).items():
            choices = sections_in(field.annotation)
            for choice in choices:
                title = f"{prefix}{key}"
                waiting.append((f"{title}.", choice))
                if choice not in seen:
                    seen.add(choice)
                    name = types_of(choice)[0] if len(choices) > 1 else ""
                    yield f"`{title}`" + (f": {name}" if name else ""), choice


def summary(section: type[Section]) -> str:
    """Return the first line of a section's docstring."""
    return (section.__doc__ or "").strip().splitlines()[0].replace("``", "`")


def table(section: type[Section], without: type[Section] | None = None) -> str:
    """Return one row per key; the keys of ``without`` stand elsewhere."""
    elsewhere = keys_of(without) if without else {}
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    rows += [
        f"| `{key}` | {kind(field)} | {default(field)} | {field.description} |"
        for key, field in keys_of(section).items()
        if key not in elsewhere
    ]
    return "\n".join(rows) + "\n"


def kind(field: FieldInfo) -> str:
    """Return a field's type and limits in words."""
    limits = [f"{sign} {getattr(each, name):.10g}" for each in field.metadata
              for name, sign in _SIGNS if getattr(each, name, None) is not None]  # fmt: skip
    return ", ".join([words(field.annotation), *limits])


def words(annotation: Any) -> str:
    """Return a type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return words(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(words(each) for each in arguments))
    if origin is list:
        return f"list of {words(arguments[0])}"
    if sections_in(annotation):
        return "section"
    return _NAMES[origin or annotation]


def default(field: FieldInfo) -> str:
    """Return a field's default as it stands in YAML."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, Section):
        return ""
    if value is None:
        return "null"
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    sys.exit(main())
