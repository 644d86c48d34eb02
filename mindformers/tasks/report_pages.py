"""A run's record as two pages: Markdown, and HTML that needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mindformers.tasks.report_record import RunRecord
from mindformers.tasks.report_svg import Curve, line_chart
from mindformers.training.loss_plot import smooth

_STYLE_FILE = Path(__file__).with_name("report.css")
_ROWS = 12  # of the table of steps
_SHOWN = {"loss": "loss", "lr": "learning rate", "grad_norm": "gradient norm",
          "tokens_per_second": "tokens per second"}  # fmt: skip
Rows = Sequence[Sequence[str]]


def curves_of(record: RunRecord) -> list[str]:
    """Return the charts of a run as SVG."""
    losses = record.points("loss")
    means = smooth([value for _, value in losses], max(5, len(losses) // 25))
    lines = [
        Curve("each step", losses, "raw"),
        Curve("smoothed", [(x, y) for (x, _), y in zip(losses, means, strict=True)]),
    ]
    evaluated = record.evaluated("loss")
    if evaluated:
        lines.append(Curve("evaluation", evaluated, "eval", has_marks=True))
    charts = [line_chart("loss (nats per trained token)", lines)]
    for name, title in _SHOWN.items():
        if name != "loss":
            charts.append(line_chart(title, [Curve(title, record.points(name))]))
    return [chart for chart in charts if chart]


def html_page(record: RunRecord) -> str:
    """Return the report as one HTML page, style and curves inside."""
    title, style = f"Run {record.folder.name}", _STYLE_FILE.read_text(encoding="utf-8")
    parts = [f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
             f"<style>{style}</style></head><body><h1>{escape(title)}</h1>"]  # fmt: skip
    for heading, header, rows in sections(record):
        parts.append(f"<h2>{escape(heading)}</h2>{_html_table(header, rows)}")
        if heading == "Summary":
            parts += curves_of(record)
    if record.config_text:
        parts.append(
            f"<details><summary>Settings</summary><pre>{escape(record.config_text)}</pre></details>"
        )
    return "\n".join([*parts, "</body></html>\n"])


def markdown_page(record: RunRecord) -> str:
    """Return the report as Markdown."""
    lines = [f"# Run {record.folder.name}", ""]
    for heading, header, rows in sections(record):
        lines += [f"## {heading}", "", *_markdown_table(header, rows), ""]
    if (record.folder / "loss.png").is_file():
        lines += ["![loss](loss.png)", ""]
    lines += ["`report.html` has the curves.", ""]
    if record.config_text:
        lines += ["## Settings", "", "```yaml", record.config_text.rstrip(), "```", ""]
    return "\n".join(lines)


def sections(record: RunRecord) -> list[tuple[str, Sequence[str], Rows]]:
    """Return (heading, header, rows) of the tables both pages have; one without rows is left out."""
    found: list[tuple[str, Sequence[str], Rows]] = [
        ("Summary", (), _pairs(record.summary())),
        ("Steps", ("step", *_SHOWN.values()), _step_rows(record)),
        ("Evaluations", *_evaluation_rows(record)),
        ("Samples", ("prompt", "before", "after"), _sample_rows(record)),
        ("Checkpoints", (), _checkpoint_rows(record)),
        *((name.capitalize(), (), _pairs(record.facts.get(name, {}))) for name in ("data", "model", "environment")),
    ]  # fmt: skip
    return [each for each in found if each[2]]


def _step_rows(record: RunRecord) -> Rows:
    steps = record.steps
    count = min(_ROWS, len(steps))
    picked = sorted({round(i * (len(steps) - 1) / max(1, count - 1)) for i in range(count)})
    return [
        [str(steps[i]["step"]), *(_number(steps[i].get(name)) for name in _SHOWN)] for i in picked
    ]


def _evaluation_rows(record: RunRecord) -> tuple[Sequence[str], Rows]:
    names = list(dict.fromkeys(name for _, results in record.evaluations for name in results))
    rows = [
        [str(step), *(_number(results.get(name)) for name in names)]
        for step, results in record.evaluations
    ]
    return ("step", *names), rows


def _sample_rows(record: RunRecord) -> Rows:
    return [
        [sample["prompt"], sample.get("before", ""), sample.get("after", "")]
        for sample in record.facts.get("samples", ())
    ]


def _checkpoint_rows(record: RunRecord) -> Rows:
    best = record.best.get("step")
    return [[name, "best" if name == best else ""] for name in record.checkpoints]


def _pairs(values: Mapping[str, Any]) -> Rows:
    return [[name, str(value)] for name, value in values.items()]


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}"


def _html_table(header: Sequence[str], rows: Rows) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def _markdown_table(header: Sequence[str], rows: Rows) -> Iterable[str]:
    width = len(rows[0])
    yield "| " + " | ".join(header or [""] * width) + " |"
    yield "|" + "---|" * width
    for row in rows:
        yield "| " + " | ".join(_one_line(cell) for cell in row) + " |"


def _one_line(cell: str) -> str:
    return escape(cell, quote=False).replace("|", "\\|").replace("\n", "<br>")
