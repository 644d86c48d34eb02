"""Repeats keep to their budget, and a measurement's line says what the interleaver needs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import measure, pages, run
from benchmarks.plan import OURS


def arguments(**changed: object) -> argparse.Namespace:
    given = {"what": "decode", "config": "tiny", "dtype": "bf16", "batch": 2, "threads": 2}
    return argparse.Namespace(**{**given, "seconds": 5.0, "repeats": 3, **changed})


def test_repeats_stop_at_their_number_or_at_the_budget_but_there_is_one() -> None:
    calls: list[int] = []
    assert len(measure.repeat(lambda: calls.append(0), arguments())) == 3
    assert len(calls) == 4  # one to warm up
    assert len(measure.repeat(lambda: time.sleep(0.02), arguments(seconds=0.001), warm=False)) == 1


def test_the_work_may_tell_its_own_time() -> None:
    assert measure.timed(lambda: 0.25).seconds == 0.25
    assert measure.timed(lambda: time.sleep(0.02)).seconds >= 0.02


def test_a_line_has_the_median_rate_and_the_load(capsys: pytest.CaptureFixture[str]) -> None:
    samples = [measure.Sample(seconds, load) for seconds, load in ((1, 0.1), (2, 0.5), (4, None))]
    measure.report("someone", arguments(), samples, amount=8, first_token_ms=3.0)
    line = json.loads(capsys.readouterr().out)
    assert line["value"] == 4.0
    assert line["best"] == 8.0
    assert line["load"] == 0.3
    assert line["peak_mib"] > 0
    assert (line["who"], line["dtype"], line["batch"]) == ("someone", "bf16", 2)
    assert (line["unit"], line["first_token_ms"]) == ("tokens/s", 3.0)


def test_prompts_are_the_same_each_time_within_the_vocabulary_and_differ_by_row() -> None:
    rows = measure.prompt_ids(100, 3, 50)
    assert rows == measure.prompt_ids(100, 3, 50)
    assert all(5 <= token < 100 for row in rows for token in row)
    assert len({tuple(row) for row in rows}) == 3


def a_runner(tmp_path: Path, timeout: float = 20.0) -> run.Runner:
    given = argparse.Namespace(
        threads=1, timeout=timeout, torch_python=None, llama_python=None, bench=tmp_path
    )
    return run.Runner(given, tmp_path / "lines.jsonl")


def test_the_interleaver_reads_lines_as_they_come_and_says_why_a_process_failed(
    tmp_path: Path,
) -> None:
    runner = a_runner(tmp_path)
    program = 'print("noise"); print("{\\"value\\": 1}", flush=True)'
    lines = [line for line, _ in runner.lines_of([sys.executable, "-c", program])]
    assert lines == [{"value": 1}]
    with pytest.raises(RuntimeError, match="ValueError: too large"):
        list(runner.lines_of([sys.executable, "-c", "raise ValueError('too large')"]))


def test_a_process_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    runner = a_runner(tmp_path, timeout=0.3)
    with pytest.raises(RuntimeError, match="stopped after 0.3 s"):
        list(runner.lines_of([sys.executable, "-c", "import time; time.sleep(30)"]))


def test_a_rival_that_is_not_installed_is_noted_and_the_run_goes_on(tmp_path: Path) -> None:
    runner = a_runner(tmp_path)
    group = next(group for group in run.GROUPS if group.name == "decode-tiny-1")
    runner.contest(group, "llama.cpp", "f16", {"round": 0})
    (line,) = run.read_lines(runner.record)
    assert (line["skipped"], line["value"], line["round"]) == ("not installed", None, 0)


def test_the_pages_get_the_tables_between_their_marks_in_both_languages(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("performance.md", "performance_CN.md"):
        (tmp_path / name).write_text(f"# P\n\n{pages.BEGIN}\nold\n{pages.END}\n\nend\n", "utf-8")
    line = {"who": OURS, "what": "decode", "config": "tiny", "dtype": "bf16", "batch": 1}
    measured = {"value": 900.0, "unit": "tokens/s", "round": 0, "peak_mib": 99, "load": 0.0}
    written = pages.write([{**line, **measured}], tmp_path)
    english, chinese = (path.read_text("utf-8") for path in written[:2])
    assert "old" not in english
    assert english.endswith("\n\nend\n")
    assert "#### Decode, tokens/s" in english
    assert "#### 解码，词元/秒" in chinese
    assert "| 规模 | 数值形式 | 本项目 |" in chinese
    assert english.count("|") == chinese.count("|")
    assert (tmp_path / pages.PLOT).is_file()
    pages.write([{**line, **measured}], tmp_path)
    assert written[0].read_text("utf-8") == english


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="the page has no"):
        pages.insert("# P\n", "", "")
