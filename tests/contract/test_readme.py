"""What README and docs say exists: links, flags, keys, names; both languages say the same."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import mindformers
from mindformers.cli.convert import build_parser as convert_parser
from mindformers.cli.flags import all_spellings
from mindformers.config.run_config import RunConfig
from mindformers.config.schema import all_keys
from mindformers.tools.dataset_preprocess.glm4 import alpaca_converter, glm4_preprocess

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("README*.md"), *ROOT.glob("docs/*.md"), ROOT / "examples/README.md"])
PAIRS = [
    (page, page.with_name(f"{page.stem}_CN.md"))
    for page in PAGES
    if page.with_name(f"{page.stem}_CN.md").exists()
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def commands() -> list[tuple[str, list[str]]]:
    """Return (page, words) of every command in a bash block, comments left out, continued lines joined."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [
                (page.name, words) for line in lines if (words := shlex.split(line, comments=True))
            ]
    return found


def known_flags(script: str) -> set[str] | None:
    if script == "run_mindformer.py":
        return set(all_spellings()) | {"--config"}
    parsers = {
        "convert_weight.py": convert_parser,
        "alpaca_converter.py": alpaca_converter.build_parser,
        "glm4_preprocess.py": glm4_preprocess.build_parser,
    }
    return set(parsers[script]()._option_string_actions) if script in parsers else None


def test_there_are_commands_to_check() -> None:
    scripts = {Path(words[1]).name for _, words in commands() if len(words) > 1}
    assert {
        "run_mindformer.py",
        "convert_weight.py",
        "alpaca_converter.py",
        "glm4_preprocess.py",
    } <= scripts


@pytest.mark.parametrize(
    ("page", "words"), commands(), ids=lambda value: value if isinstance(value, str) else value[-1]
)
def test_every_flag_of_a_documented_command_exists(page: str, words: list[str]) -> None:
    script = Path(words[1] if words[0] in ("python", "bash") and len(words) > 1 else words[0])
    if words[0] == "bash":
        assert (ROOT / script).is_file(), f"{page}: {script}"
    flags = known_flags(script.name)
    keys = {key for key, _ in all_keys(RunConfig)}
    for flag in [word.split("=")[0] for word in words if word.startswith("--")]:
        if flags is not None and flag not in flags:
            assert script.name == "run_mindformer.py", f"{page}: {script} has no {flag}"
            assert flag.removeprefix("--") in keys, f"{page}: {flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_use_names_that_exist(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "mindformers":
                assert [
                    alias.name for alias in node.names if not hasattr(mindformers, alias.name)
                ] == []


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda page: page.name)
def test_both_languages_have_the_same_sections_and_examples(english: Path, chinese: Path) -> None:
    def outline(page: Path) -> tuple[int, int, list[str], list[str]]:
        text = page.read_text(encoding="utf-8")
        prose = re.sub(r"```.*?```", "", text, flags=re.S)
        tables = len(re.findall(r"^\|", prose, re.M))
        return (
            len(re.findall(r"^#", prose, re.M)),
            tables,
            blocks(page, "bash"),
            blocks(page, "python"),
        )

    assert outline(english) == outline(chinese)
