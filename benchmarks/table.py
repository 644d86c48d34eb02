"""Figures -> Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.plan import OURS
from benchmarks.summary import (
    Figure,
    Key,
    Line,
    Ratio,
    figures,
    limit_of,
    machine_limits,
    of_work,
    ratios,
)

_RATED = ("decode", "prefill", "train", "lora", "first-token")
_HEAD = ("size", "form", "ours", "lowest-highest", "of the limit", "speed over", "memory over")
_TITLES = {
    "decode": "Decode, tokens/s",
    "prefill": "Prompt of 1024 tokens, tokens/s",
    "train": "Training step, tokens/s",
    "lora": "LoRA step, tokens/s",
    "first-token": "Start of the process to the first token, seconds",
}


def number(value: float) -> str:
    """Write a figure with three significant digits at least."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    body = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *body]


def _over(each: Ratio) -> str:
    return f"{each.who} {each.dtype} {each.median:.2f} ({each.lowest:.2f}-{each.highest:.2f})"


def _ours_row(key: Key, figure: Figure, found: Mapping[Key, Figure], share: str) -> list[str]:
    name = f"{key.config}, {key.batch}"
    if not figure.values:
        return [name, key.dtype, figure.note, "", "", "", ""]
    values = figure.values.values()
    against = ratios(key, found)
    memory = [f"{each.who} {each.dtype} {each.memory:.2f}" for each in against if each.memory]
    return [
        name,
        key.dtype,
        number(figure.median),
        f"{number(min(values))}-{number(max(values))}",
        share,
        "; ".join(_over(each) for each in against),
        "; ".join(memory),
    ]


def _share(key: Key, figure: Figure, machine: Mapping[str, float]) -> str:
    limit = limit_of(key, machine)
    if limit is None or not figure.values:
        return ""
    return f"{figure.median / limit:.0%} of {number(limit)}"


def comparison(lines: Sequence[Line]) -> str:
    """Return one table per work: ours, its share of the limit, and the ratio to each rival."""
    found, machine = figures(lines), machine_limits(lines)
    parts = []
    for what in _RATED:
        rows = [
            _ours_row(key, figure, found, _share(key, figure, machine))
            for key, figure in of_work(found, (what,), OURS)
        ]
        if rows:
            parts.append("\n".join([f"### {_TITLES[what]}", "", *_rows(_HEAD, rows)]))
    return "\n\n".join(parts)


def everything(lines: Sequence[Line]) -> str:
    """Return one table of all contestants' figures."""
    found, machine = figures(lines), machine_limits(lines)
    head = ("work", "size, batch", "who", "form", "median", "lowest-highest", "rounds", "limit")
    rows = []
    for key, figure in of_work(found, _RATED):
        name = [key.what, f"{key.config}, {key.batch}", key.who, key.dtype]
        if not figure.values:
            rows.append([*name, figure.note, "", "0", "", "", ""])
            continue
        values, limit = figure.values.values(), limit_of(key, machine)
        rows.append(
            [
                *name,
                number(figure.median) + (" s" if figure.unit == "s" else ""),
                f"{number(min(values))}-{number(max(values))}",
                f"{len(values)} of {len(values) + figure.disturbed}",
                number(limit) if limit else "",
                f"{figure.peak:,.0f}" if figure.peak else "",
                f"{figure.load:.2f}" if figure.load is not None else "",
            ]
        )
    return "\n".join(_rows((*head, "peak MiB", "load"), rows)) if rows else ""


def growth(lines: Sequence[Line]) -> str:
    """Return the table of the growth curves: time per token and prompt speed at each context."""
    found, machine = figures(lines), machine_limits(lines)
    head = ("size", "who", "form", "context", "ms per token", "limit, ms", "prompt, tokens/s")
    rows = []
    for key, figure in of_work(found, ("growth",)):
        if key.part != "decode" or not figure.values:
            continue
        other = Key(key.config, key.what, key.batch, key.who, key.dtype, "prefill", key.context)
        floor, roof = limit_of(key, machine), limit_of(other, machine)
        rows.append(
            [
                key.config,
                key.who,
                key.dtype,
                f"{key.context:,}",
                number(1000 / figure.median),
                number(1000 / floor) if floor else "",
                number(found[other].median),
                number(roof) if roof else "",
            ]
        )
    return "\n".join(_rows((*head, "limit, tokens/s"), rows)) if rows else ""


def machine(lines: Sequence[Line]) -> str:
    """Return the table of the machine's limits."""
    units = {line["what"]: line["unit"] for line in lines if line["who"] == "limit"}
    rows = [
        [what, f"{number(value)} {units[what]}"] for what, value in machine_limits(lines).items()
    ]
    return "\n".join(_rows(("limit", "median of the rounds' best"), rows)) if rows else ""


def files(lines: Sequence[Line]) -> str:
    """Return the table of the work on files, as their scripts tell it."""
    hidden = ("who", "what", "bench", "figure", "round", "time")
    rows = [
        [
            line["what"],
            str(line.get("figure", "")),
            ", ".join(f"{name} {value}" for name, value in line.items() if name not in hidden),
        ]
        for line in lines
        if line["who"] == "files"
    ]
    return "\n".join(_rows(("work", "figure", "found"), rows)) if rows else ""


def document(lines: Sequence[Line]) -> str:
    """Return all tables, ready for a page."""
    sections = (
        ("## The machine", machine(lines)),
        ("## Ours beside the rivals", comparison(lines)),
        ("## Growth with the context", growth(lines)),
        ("## Work on files", files(lines)),
        ("## Every figure", everything(lines)),
    )
    return "\n\n".join(f"{title}\n\n{text}" for title, text in sections if text) + "\n"
