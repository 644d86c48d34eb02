"""What README and docs say exists: links, files, flags, keys, names; both languages say the same."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from mindformers.cli.chat import build_parser as chat_parser
from mindformers.cli.convert import build_parser as convert_parser
from mindformers.cli.flags import all_spellings
from mindformers.cli.serve import build_parser as serve_parser
from mindformers.config.run_config import RunConfig
from mindformers.config.schema import all_keys
from mindformers.tools.dataset_preprocess.glm4 import alpaca_converter, glm4_preprocess

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("README*.md"), *ROOT.glob("docs/*.md"), ROOT / "examples/README.md"])
GENERATED = "config_reference.md"
TOPS = ("mindformers", "examples", "scripts")
ENGLISH = [
    page
    for page in PAGES
    if not page.stem.endswith("_CN") and page.parent.name != "examples" and page.name != GENERATED
]
PAIRS = [(page, page.with_name(f"{page.stem}_CN.md")) for page in ENGLISH]
CHAT = "mindformers chat"
PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "convert_weight.py": convert_parser,
    "mindformers serve": serve_parser,
    "mindformers convert": convert_parser,
    CHAT: chat_parser,
    "alpaca_converter.py": alpaca_converter.build_parser,
    "glm4_preprocess.py": glm4_preprocess.build_parser,
}
RUN = ("run_mindformer.py", "mindformers run")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def fences(page: Path) -> list[tuple[str, str]]:
    """Return (language, text) of every code block."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in fences(page) if found == language]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def commands_in(block: str) -> list[list[str]]:
    """Return the words of each command of a bash block, comments left out, continued lines joined."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def commands() -> list[tuple[str, list[str]]]:
    return [
        (page.name, words)
        for page in PAGES
        for block in blocks(page, "bash")
        for words in commands_in(block)
    ]


def program(words: list[str]) -> str:
    """Return what a command starts: a script's file name, or ``mindformers`` and its command."""
    if words[:3] == ["python", "-m", "mindformers"] or words[0] == "mindformers":
        return f"mindformers {words[words.index('mindformers') + 1]}"
    return Path(words[1] if words[0] in ("python", "bash") else words[0]).name


def test_there_are_commands_to_check() -> None:
    programs = {program(words) for _, words in commands()}
    assert {RUN[0], CHAT, "convert_weight.py", "alpaca_converter.py", "glm4_preprocess.py"} <= (
        programs
    )


@pytest.mark.parametrize(
    ("page", "words"), commands(), ids=lambda value: value if isinstance(value, str) else value[-1]
)
def test_every_flag_of_a_documented_command_exists(page: str, words: list[str]) -> None:
    name = program(words)
    given = {word.split("=")[0] for word in words if word.startswith("--")}
    if name in RUN:
        keys = {f"--{key}" for key, _ in all_keys(RunConfig)}
        known = set(all_spellings()) | {"--config"} | keys
    elif name in PARSERS:
        known = set(PARSERS[name]()._option_string_actions)
    else:
        known = given
    assert sorted(given - known) == [], f"{page}: {name}"


@pytest.mark.parametrize(
    ("page", "words"), commands(), ids=lambda value: value if isinstance(value, str) else value[-1]
)
def test_every_script_and_configuration_of_a_documented_command_exists(
    page: str, words: list[str]
) -> None:
    own = [word for word in words if word.startswith(("configs/", "scripts/", "examples/"))]
    if words[0] in ("python", "bash") and words[1] != "-m":
        own.append(words[1])
    assert [word for word in own if not (ROOT / word).exists()] == [], page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_the_text_exist(page: Path) -> None:
    named = re.findall(r"`((?:[\w-]+/)*[\w-]+(?:\.py|\.sh|\.npz)|tests/[\w/.-]+)`", prose(page))
    places = (ROOT, ROOT / "mindformers", page.parent)
    bare = {path.name for top in TOPS for path in (ROOT / top).rglob("*.*")}
    assert [
        name
        for name in named
        if name not in bare and not any((place / name).exists() for place in places)
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_parse_and_use_names_that_exist(page: Path) -> None:
    for block in blocks(page, "json"):
        json.loads(block)
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mindformers"):
                module = importlib.import_module(node.module or "")
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def without_comments(language: str, block: str) -> object:
    """Return what both languages must have alike: code without comments, listings without remarks."""
    if language == "bash":
        return commands_in(block)
    if language == "python":
        return ast.dump(ast.parse(block))
    if language:
        return block
    # In a listing two blanks or more set a remark off, and remarks are translated.
    return [re.split(r"(?<=\S)\s{2,}", line)[0] for line in block.splitlines()]


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda page: page.name)
def test_both_languages_have_the_same_sections_tables_and_examples(
    english: Path, chinese: Path
) -> None:
    def outline(page: Path) -> tuple[list[str], int, list[tuple[str, object]]]:
        text = prose(page)
        return (
            re.findall(r"^#+", text, re.M),
            len(re.findall(r"^\|", text, re.M)),
            [(language, without_comments(language, block)) for language, block in fences(page)],
        )

    assert outline(english) == outline(chinese)
