"""The shell scripts up to the point where they would install something."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
TOOLS = ("bash", "cat", "cksum", "dirname", "env", "mkdir", "rm", "tail", "touch", "date")


@pytest.fixture
def checkout(tmp_path):
    """A folder with the scripts alone; nothing is installed from it."""
    folder = tmp_path / "my folder 中文"
    folder.mkdir()
    shutil.copytree(SCRIPTS, folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pyproject.toml").write_text("", encoding="utf-8")
    return folder


@pytest.fixture
def commands(tmp_path):
    """A PATH with the tools the scripts need and no Python; a test adds its own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def interpreter(path, text):
    """A stand-in that answers the scripts' question about an interpreter with ``text``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\nprintf '%s' '{text}'\n", encoding="utf-8")
    path.chmod(0o755)


def bash(script, *arguments, path=None, cwd="/", **environment):
    env = {"PATH": str(path) if path else os.environ["PATH"], "HOME": "/nowhere", **environment}
    return subprocess.run(
        ["bash", str(script), *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=env,
        cwd=cwd,
        timeout=60,
    )


@pytest.mark.parametrize("name", ["quickstart.sh", "test.sh"])
def test_no_python_at_all_is_one_line(checkout, commands, name):
    done = bash(checkout / "scripts" / name, path=commands)
    assert done.returncode == 2
    assert done.stderr == (
        "error: no Python 3.10, 3.11 or 3.12 with the venv module found. "
        "Install one, or set PYTHON=/path/to/python\n"
    )
    assert not (checkout / ".venv").exists()


def test_what_is_wrong_with_each_python_is_said(checkout, commands):
    interpreter(commands / "python3.12", "has no ensurepip")
    interpreter(commands / "python3", "is Python 3.13")
    done = bash(checkout / "scripts/test.sh", path=commands)
    assert done.returncode == 2
    assert "; python3.12 has no ensurepip; python3 is Python 3.13. Install one" in done.stderr


def test_a_python_asked_for_is_not_replaced_by_another(checkout):
    done = bash(checkout / "scripts/test.sh", PYTHON="/no/such/python")
    assert done.returncode == 2
    assert done.stderr.startswith("error: PYTHON=/no/such/python does not run; needed is Python")


def test_a_virtual_environment_of_another_python_is_not_deleted(checkout):
    interpreter(checkout / ".venv/bin/python", "is Python 3.13")
    done = bash(checkout / "scripts/test.sh")
    assert done.returncode == 2
    assert f"{checkout}/.venv is Python 3.13; needed is" in done.stderr
    assert (checkout / ".venv/bin/python").exists()


def test_an_active_environment_that_cannot_be_used_is_left_alone(checkout, commands, tmp_path):
    interpreter(tmp_path / "other/bin/python", "is Python 3.13")
    done = bash(checkout / "scripts/test.sh", path=commands, VIRTUAL_ENV=str(tmp_path / "other"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        f"note: the active environment {tmp_path}/other is Python 3.13; "
        "it stays as it is and .venv is used"
    )
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["bin"]


def test_a_half_made_environment_is_made_again_and_a_failed_installation_shows_its_log(checkout):
    pytest.importorskip("ensurepip")
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").symlink_to("/no/such/python")
    settings = {
        "PYTHON": sys.executable,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
    }
    done = bash(checkout / "scripts/test.sh", **settings)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[0].startswith("making a virtual environment in .venv with Python 3.")
    assert any("No matching distribution found" in line for line in lines)
    assert lines[-1] == (
        f"error: the installation failed; the whole log is {checkout}/.venv/install.log"
    )
    assert (checkout / ".venv/.unfinished").exists()


@pytest.mark.parametrize("arguments", [["--output"], ["--output", ""], ["--output", "--chat"]])
def test_an_output_folder_must_be_named(checkout, arguments):
    done = bash(checkout / "scripts/quickstart.sh", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --output needs a directory\nusage: ")


def test_an_unknown_argument_is_refused_with_the_usage(checkout):
    done = bash(checkout / "scripts/quickstart.sh", "--outptu", "x")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown argument '--outptu'\nusage: ")


@pytest.mark.parametrize("name", ["quickstart.sh", "test.sh", "chat.sh"])
def test_help_needs_no_environment(checkout, commands, name):
    done = bash(checkout / "scripts" / name, "--help", path=commands)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: bash scripts/{name} ")


def test_chatting_before_the_quickstart_names_it(checkout, commands):
    done = bash(checkout / "scripts/chat.sh", path=commands)
    assert done.returncode == 2
    assert done.stderr == (
        "error: there is no output/quickstart/huggingface; "
        "the default one is made by: bash scripts/quickstart.sh\n"
    )
