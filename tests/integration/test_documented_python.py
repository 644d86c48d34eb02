"""The Python of the pages runs as it is written, and prints what a ``text`` block below it says.

It runs in a folder like the checkout after the quickstart, with a smaller model that has learnt what the pages ask.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.tiny_chat import train_rank_file
from mindformers.cli import convert, run
from mindformers.serving.serve import open_service
from mindformers.serving.settings import ServerSettings
from mindformers.tools.dataset_preprocess.glm4 import glm4_preprocess
from tests.support.serving import running

ROOT = Path(__file__).resolve().parents[2]
DATA = [ROOT / "examples/tiny_chat" / name for name in ("alpaca_tiny.json", "calls_tiny.json")]
PAGES = ("README", "docs/checkpoints", "docs/chat", "docs/engine", "docs/quantization",
         "docs/serving", "docs/speculative", "docs/tools")  # fmt: skip
MODEL = "output/quickstart/huggingface"
CONFIG = "configs/glm4/finetune_glm4_tiny_cpu.yaml"
ADDRESS = "http://127.0.0.1:8000"
PYTHON = re.compile(
    r"^```python\n(.*?)^```\n(?:\n(?:\S[^\n]*\n\n)?```text\n(.*?)^```\n)?", re.M | re.S
)
ASKED = (
    "What is the capital of France?",
    "What is the capital of Canada?",
    "Who are you?",
    "你好！",
)


def examples(page: str) -> list[tuple[str, str]]:
    """Return each Python block of a page and the ``text`` block that stands below it, or an empty text."""
    return PYTHON.findall((ROOT / f"{page}.md").read_text(encoding="utf-8"))


def learnt_rows() -> list[dict[str, Any]]:
    """Return what the pages ask, as conversations: four questions, and the weather of two cities."""
    questions, calls = (json.loads(path.read_text(encoding="utf-8")) for path in DATA)
    talks = [
        {"messages": [{"role": "user", "content": each["instruction"]},
                      {"role": "assistant", "content": each["output"]}]}
        for each in questions if each["instruction"] in ASKED
    ]  # fmt: skip
    return [*talks, *calls[:2]]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the pages use of the checkout and of the quickstart's output."""
    folder = tmp_path_factory.mktemp("checkout")
    output = folder / "output/quickstart"
    output.mkdir(parents=True)
    (folder / CONFIG).parent.mkdir(parents=True)
    settings = (ROOT / CONFIG).read_text(encoding="utf-8")
    (folder / CONFIG).write_text(settings.replace("epochs: 40", "epochs: 2"), encoding="utf-8")
    vocabulary = f"{output}/tokenizer.model"
    train_rank_file.main(["--data", *map(str, DATA), "--vocab_size", "2034",
                          "--output", vocabulary])  # fmt: skip
    talks = learnt_rows()
    # A page trains on questions alone, twenty in a batch.
    for name, rows, length in (("tiny_chat", talks, "192"), ("alpaca_tiny", talks[:4] * 5, "32")):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (output / f"{name}.jsonl").write_text(text, encoding="utf-8")
        glm4_preprocess.main(["--input_glob", f"{output}/{name}.jsonl", "--vocab_file", vocabulary,
                              "--output_file", f"{output}/{name}.mindrecord",
                              "--seq_length", length])  # fmt: skip
    run.main(["--config", str(ROOT / CONFIG), "--run_mode", "finetune",
              "--output_dir", f"{output}/finetune",
              "--train_dataset", f"{output}/tiny_chat.mindrecord", "--train_dataset.packing", "True",
              "--model.model_config.num_layers", "2", "--model.model_config.seq_length", "192",
              "--runner_config.batch_size", "2", "--runner_config.epochs", "120"])  # fmt: skip
    convert.main(["--model", "glm4", "--reversed", "--input_path", f"{output}/finetune/checkpoint",
                  "--output_path", f"{output}/huggingface",
                  "--tokenizer", vocabulary])  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def address(checkout: Path) -> Iterator[str]:
    with running(open_service(checkout / MODEL, ServerSettings(), name="tiny")) as url:
        yield url


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs_and_prints_what_the_page_says(
    page: str, checkout: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    names: dict[str, Any] = {}  # of the whole page: a block may go on with what one above it made
    found = examples(page)
    assert found
    for code, told in found:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code.replace(ADDRESS, address), page, "exec"), names)
        if told:
            assert printed.getvalue() == told
