"""The shape of the project: layers, file sizes, laziness, scripts."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mindformers"
LONGEST = 300
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_nothing_inside_imports_the_package_root() -> None:
    assert [p for p in SOURCES if "mindformers" in imported_modules(p)] == []


def test_the_layer_list_names_every_package_and_module() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("reading pyproject.toml needs tomllib, which came with Python 3.11")
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]
    layers = next(c for c in contracts["contracts"] if c["id"] == "layers")["layers"]
    listed = {name.strip() for layer in layers for name in layer.split("|")}
    found = {p.stem for p in PACKAGE.glob("*.py")} | {
        p.parent.name for p in PACKAGE.glob("*/__init__.py")
    }
    assert listed == found - {"__init__"}


def test_no_file_is_longer_than_300_lines() -> None:
    long = {
        str(p.relative_to(ROOT)): n
        for p in SOURCES
        if (n := len(p.read_text("utf-8").splitlines())) > LONGEST
    }
    assert long == {}


# Upstream's documents import from these packages (``from mindformers.generation import TextStreamer``).
WITH_PUBLIC_NAMES = ["dataset", "generation", "glm2", "pet"]


def test_inits_are_empty_but_for_the_root_the_models_and_public_names() -> None:
    filled = {
        p.parent.name: text
        for p in PACKAGE.rglob("__init__.py")
        if (text := p.read_text(encoding="utf-8").strip())
    }
    assert sorted(filled) == sorted([*WITH_PUBLIC_NAMES, "mindformers", "models"])
    assert all(
        filled[name].endswith("__getattr__ = public_names(__name__)") for name in WITH_PUBLIC_NAMES
    )


# generation/runner.py drives a MindSpore network; glm2_modules and the like are one.
MINDSPORE_SIDE = {"runner", "portable_step", "glm2_modules", "network_scorer"}


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )


@pytest.mark.parametrize(
    "statement",
    [
        "import mindformers",
        "from mindformers import MindFormerConfig, MindFormerRegister, ChatGLM2Config",
        "from mindformers import ChatGLM4Tokenizer, GenerationConfig, AutoConfig, AutoTokenizer",
        "from mindformers.models.glm2 import ChatGLM2Config, ChatGLM4Tokenizer",
        "from mindformers.generation import GenerationConfig, TextStreamer",
        "from mindformers.tools.register import MindFormerConfig, MindFormerRegister",
        "import mindformers.cli.run, mindformers.cli.convert, mindformers.dataset.messages, mindformers.tokenizer.chat",
    ],
)
def test_config_tokenizer_and_commands_load_without_mindspore(statement: str) -> None:
    done = run_python(
        f"import sys\n{statement}\nprint([m for m in ('mindspore', 'torch') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


# What a run on a CPU without MindSpore consists of: configuration, tokenizer, generation, mapped weights.
WITHOUT_FRAMEWORK = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for pattern in (
        "config/**/*.py", "tokenizer/**/*.py", "generation/**/*.py", "checkpoint/**/*.py",
        "cli/**/*.py", "models/glm2/glm2_[cimnw]*.py", "models/glm2/glm4_*.py",
        "models/glm2/glm_processor.py", "models/glm2/hf_config.py", "models/glm2/conver*.py",
        "models/base_config.py", "models/sources.py", "models/presets.py", "models/auto.py",
        "guard.py", "errors.py", "logger.py", "registry.py", "tasks/predict.py", "tasks/build.py",
        "tasks/pipeline.py", "tasks/evaluate.py", "tasks/open_model.py", "evaluation/**/*.py",
        "serving/**/*.py", "tasks/chat*.py", "agent/*.py",
    )
    for path in PACKAGE.glob(pattern)
    if path.stem not in MINDSPORE_SIDE
)  # fmt: skip


def test_what_runs_without_mindspore_loads_where_there_is_none() -> None:
    code = (
        "import sys, importlib\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('mindspore', 'torch', 'transformers'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"for name in {WITHOUT_FRAMEWORK!r}: importlib.import_module(name)"
    )
    assert len(WITHOUT_FRAMEWORK) > 60
    done = run_python(code)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "modules",
    [
        "mindformers.cli.run, mindformers.config.preflight, mindformers.tasks.predict, "
        "mindformers.models.glm2.glm2_in_files, mindformers.models.glm2.glm_processor",
        "mindformers.cli.convert, mindformers.models.glm2.convert_weight, "
        "mindformers.models.glm2.convert_reversed",
    ],
)
def test_what_is_seldom_used_is_loaded_when_it_is_used(modules: str) -> None:
    seldom = ("mindspore", "jinja2", "rich", "matplotlib", "safetensors", "huggingface_hub")
    done = run_python(f"import sys, {modules}\nprint([m for m in {seldom} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


def test_every_public_name_resolves() -> None:
    import mindformers

    missing = [name for name in mindformers.__all__ if getattr(mindformers, name, None) is None]
    assert missing == []
    assert set(mindformers.__all__) <= set(dir(mindformers))
    with pytest.raises(AttributeError, match="no attribute 'AutoModle'"):
        _ = mindformers.AutoModle


SCRIPTS = sorted(
    [*ROOT.glob("scripts/*.sh"), *ROOT.glob("scripts/examples/glm4/*.sh"), ROOT / ".ci/run"]
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_parse(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


@pytest.mark.parametrize(
    "script",
    [
        "scripts/quickstart.sh",
        "scripts/test.sh",
        "scripts/chat.sh",
        "scripts/msrun_launcher.sh",
        "scripts/examples/glm4/run_glm4_predict.sh",
    ],
)
def test_scripts_explain_themselves(script: str) -> None:
    done = subprocess.run(
        ["bash", script, "--help"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("usage: bash scripts/")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["single", "a", "b"], "3 arguments found; 5 are needed"),
        (
            ["single", "a", "b", "c", "2"],
            "PARALLEL is 'single' and DEVICE_NUM is '2'; allowed: single and 1, or parallel and a",
        ),
    ],
)
def test_the_predict_script_refuses_what_it_cannot_run(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        ["bash", "scripts/examples/glm4/run_glm4_predict.sh", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr


def test_the_quickstart_refuses_an_unknown_argument() -> None:
    done = subprocess.run(
        ["bash", "scripts/quickstart.sh", "--chatt"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env={**os.environ, "VIRTUAL_ENV": "/nonexistent"},
    )
    assert done.returncode == 2
    assert "unknown argument '--chatt'" in done.stderr
