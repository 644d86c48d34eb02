"""The report of a run: its curves, its two pages, and when it is written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mindformers.cli.main import main
from mindformers.tasks.finetune import finetune
from mindformers.tasks.report import RunReport, write_report
from mindformers.tasks.report_record import read_run
from mindformers.tasks.report_svg import HEIGHT, WIDTH, Curve, line_chart, thinned
from tests.support.evaluation import EvalParts


def points_of(chart: str) -> list[tuple[float, float]]:
    """Return the places of the first line of a chart."""
    line = ElementTree.fromstring(chart).find("polyline")
    assert line is not None
    return [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]


def test_a_line_runs_from_edge_to_edge_and_high_values_stand_high() -> None:
    (x0, y0), (x1, y1), (x2, y2) = points_of(
        line_chart("t", [Curve("a", [(0, 1), (5, 3), (10, 2)])])
    )
    assert (x0, x2) == (64, WIDTH - 12)
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y1 < y2 < y0
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.1)
    assert y1 > 0
    assert y0 < HEIGHT


def test_ticks_are_round_and_within_the_axes() -> None:
    chart = line_chart("t", [Curve("a", [(0, 0.0), (100, 0.97)])])
    texts = [text.text for text in ElementTree.fromstring(chart).iter("text")]
    assert {"0", "20", "40", "60", "80", "100", "0.2", "0.4", "0.6", "0.8"} <= set(texts)


@pytest.mark.parametrize("points", [[(3, 2.0)], [(1, 0.0), (2, 0.0)], [(1, 5.0), (2, 5.0)]])
def test_one_point_and_a_level_line_can_be_drawn(points: list[tuple[int, float]]) -> None:
    found = points_of(line_chart("t", [Curve("a", points)]))
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in found)


def test_nothing_gives_no_chart_and_names_are_escaped() -> None:
    assert line_chart("t", [Curve("a", [])]) == ""
    assert "a&lt;b" in line_chart("a<b", [Curve("x", [(1, 1.0)])])


def test_a_thinned_curve_keeps_its_ends_and_its_peak() -> None:
    points = [(i, 0.0) for i in range(10_000)]
    points[5_001] = (5_001, 9.0)
    found = thinned(points)
    assert len(found) <= 420
    assert (5_001, 9.0) in found
    assert found == sorted(found)
    assert found[0][0] == 0


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A folder as a run leaves it."""
    folder = tmp_path / "my_run"
    folder.mkdir()
    rows = [
        {"step": i, "epoch": 1, "loss": 4.0 / i, "lr": 1e-3, "grad_norm": None, "tokens": 10,
         "trained_tokens": 4, "seconds": 0.5, "tokens_per_second": 20.0}
        for i in range(1, 31)
    ]  # fmt: skip
    rows.insert(
        20, {"step": 20, "epoch": 1, "eval_loss": 0.25, "eval_rouge-l": 31.5, "eval_seconds": 1.0}
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text("seed: 1\noutput_dir: '<b>'\n")
    facts = {"state": "finished", "data": {"rows": "7"}, "environment": {"Python": "3.11"},
             "samples": [{"prompt": "a|b", "before": "<script>x</script>", "after": "two\nlines"}]}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


def test_the_markdown_page_has_the_figures(run_dir: Path) -> None:
    write_report(run_dir)
    page = (run_dir / "report.md").read_text()
    assert "| steps | 30 in 1 epochs |" in page
    assert "| loss | 4.0000 at step 1, 0.1333 at step 30 |" in page
    assert "| tokens | 300, of which 120 trained (40.0%) |" in page
    assert (
        "| step | loss | rouge-l | seconds |\n|---|---|---|---|\n| 20 | 0.25 | 31.5 | 1 |" in page
    )
    assert "| a\\|b | &lt;script&gt;x&lt;/script&gt; | two<br>lines |" in page
    steps = re.findall(r"^\| (\d+) \| [\d.]+ \| 0\.001 \| - \| 20 \|$", page, re.M)
    assert steps[0] == "1"
    assert steps[-1] == "30"
    assert "seed: 1\n" in page


def test_the_html_page_needs_nothing_from_outside_and_runs_nothing(run_dir: Path) -> None:
    page = write_report(run_dir).read_text()
    assert not re.search(r"https?:|src=|<script|<link|@import", page)
    charts = re.findall(r"<svg.*?</svg>", page)
    titles = [ElementTree.fromstring(chart).attrib["aria-label"] for chart in charts]
    assert titles == ["loss (nats per trained token)", "learning rate", "tokens per second"]
    assert len(list(ElementTree.fromstring(charts[0]).iter("circle"))) == 1, "the evaluation"
    assert "output_dir: &#x27;&lt;b&gt;&#x27;" in page


def test_a_line_a_killed_process_left_half_is_passed_over(run_dir: Path) -> None:
    with (run_dir / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 31, "lo')
    assert len(read_run(run_dir).steps) == 30


def test_the_command_writes_the_pages_and_refuses_another_folder(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run_dir)]) == 0
    assert capsys.readouterr().out == f"{run_dir / 'report.html'}\n"
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert (
        f"{tmp_path}: there is no metrics.jsonl; allowed: the output_dir of a finetuning run"
        in error
    )
    assert "Traceback" not in error


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> EvalParts:
    return EvalParts(tmp_path_factory.mktemp("parts"))


def settings(parts: EvalParts, folder: Path, **changes: Any) -> Any:
    section = {"type": "CheckpointMonitor", "save_checkpoint_steps": 1}
    common = {"run_mode": "finetune", "callbacks": [section],
              "runner_config": {"epochs": 1, "batch_size": 3}}  # fmt: skip
    return parts.run(folder, **{**common, **changes})


@pytest.mark.usefixtures("pynative")
def test_a_finished_run_has_its_report_with_answers_before_and_after(
    parts: EvalParts, tmp_path: Path
) -> None:
    report = {"samples": ["Hello"], "sample_length": 4}
    finetune(settings(parts, tmp_path, report=report))
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["state"] == "finished"
    assert facts["data"]["rows"] == "7"
    (sample,) = facts["samples"]
    assert set(sample) == {"prompt", "before", "after"}
    assert facts["environment"]["numpy"].startswith("1.")
    assert (tmp_path / "report.html").is_file()
    # A resumed run keeps what the weights before the first step said.
    (tmp_path / "report.html").unlink()
    finetune(
        settings(
            parts, tmp_path, report=report, resume_training="step_00000001", load_checkpoint=""
        )
    )
    again = json.loads((tmp_path / "run.json").read_text())["samples"][0]
    assert again["before"] == sample["before"]
    assert (tmp_path / "report.html").is_file()


@pytest.mark.usefixtures("pynative")
def test_no_report_is_written_where_none_is_wanted(parts: EvalParts, tmp_path: Path) -> None:
    finetune(settings(parts, tmp_path, report={"enabled": False}))
    assert not list(tmp_path.glob("report.*"))
    assert not (tmp_path / "run.json").exists()


@pytest.mark.usefixtures("pynative")
def test_a_run_that_fails_says_so_in_its_report(run_dir: Path) -> None:
    report = RunReport()
    report.facts = {"state": "under way"}
    stand_in: Any = type("Run", (), {"output_dir": run_dir})()
    report.on_exception(stand_in, ValueError("no more data"))
    assert "ended by an error: no more data" in (run_dir / "report.md").read_text()
