"""The modules of the page that need no browser, in Node: Markdown, protocol, conversations, settings, words."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = Path(__file__).resolve().parents[4] / "mindformers" / "serving" / "page"
LONGEST = 300


def node_is_new_enough() -> bool:
    node = shutil.which("node")
    if node is None:
        return False
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    return int(version.removeprefix("v").split(".")[0]) >= 20


@pytest.mark.parametrize("tests", sorted(HERE.glob("js/*.test.mjs")), ids=lambda path: path.stem)
def test_modules_in_node(tests: Path, tmp_path: Path) -> None:
    if not node_is_new_enough():
        pytest.skip("there is no node of version 20 or later")
    modules = tmp_path / "js"
    shutil.copytree(PAGE / "js", modules)
    # A browser knows from the page that these are modules; node has to be told.
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    done = subprocess.run(
        ["node", "--test", str(tests)],
        capture_output=True,
        text=True,
        env={"PATH": str(Path(shutil.which("node") or "").parent), "PAGE_MODULES": str(modules)},
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"# fail 0\n", done.stdout)
    assert not re.search(r"# pass 0\n", done.stdout)


FILES = sorted(path for path in PAGE.rglob("*") if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]


def test_no_file_of_the_page_is_longer_than_300_lines() -> None:
    long = {
        path.name: lines
        for path in FILES
        if (lines := len(path.read_text("utf-8").splitlines())) > LONGEST
    }
    assert long == {}


# What would make markup, code or styles of a text.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|setHTML"
    r"|\beval\(|new Function|srcdoc|setAttribute\('on|\bimport\("
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_module_makes_markup_of_text(path: Path) -> None:
    assert FORBIDDEN.findall(path.read_text("utf-8")) == []


def test_nothing_is_fetched_from_elsewhere() -> None:
    found = {
        path.name: addresses
        for path in FILES
        if (
            addresses := re.findall(
                r"(?:https?:)?//[a-z][\w.-]+\.[a-z]+[^\s'\"]*", path.read_text("utf-8")
            )
        )
    }
    # The name of SVG's namespace is no address.
    assert found == {
        "dom.js": ["http://www.w3.org/2000/svg"],
        "icon.svg": ["http://www.w3.org/2000/svg"],
    }


def test_every_file_of_the_page_is_installed() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("reading pyproject.toml needs tomllib, which came with Python 3.11")
    import tomllib

    package = PAGE.parents[1]
    settings = tomllib.loads((package.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["mindformers"]
    assert set(FILES) <= {path for pattern in patterns for path in package.glob(pattern)}


def test_the_page_asks_for_all_of_its_files_at_once() -> None:
    asked = re.findall(r'(?:href|src)="([^"]+)"', (PAGE / "index.html").read_text(encoding="utf-8"))
    files = [path.relative_to(PAGE).as_posix() for path in FILES if path.name != "index.html"]
    assert sorted(asked) == sorted(files)
